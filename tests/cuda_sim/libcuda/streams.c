/* Streams, each a thread with a queue, and events. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

static int last_id;

/* Execute one step, which begins at a virtual time, and return when it ends; without the lock. */
double sim_execute(struct Step *step, CUcontext context, int stream, double begin_us) {
    pthread_mutex_lock(&sim_lock);
    int lost = (step->to_memory && !step->to_memory->alive) || (step->from_memory && !step->from_memory->alive);
    if (lost) {
        sim_fault("an operation was executed on freed memory");
        context->error = ILLEGAL_ADDRESS;
    }
    double end_us = begin_us + step->cost_us;
    if (step->kind == WAIT && step->mark) {
        while (!step->mark->reached) pthread_cond_wait(&sim_changed, &sim_lock);
        if (end_us < step->mark->virtual_us) end_us = step->mark->virtual_us;
    }
    sim_trace(step->name, context->device, stream, step->size, begin_us, end_us);
    pthread_mutex_unlock(&sim_lock);
    /* After an error a context executes nothing more. */
    if (context->error) return end_us;
    if (step->kind == COPY) memcpy(step->to, step->from, step->size);
    if (step->kind == SET) memset(step->to, step->value, step->size);
    if (step->kind == HOST_FUNCTION) step->function(step->data);
    return end_us;
}

static void *serve(void *argument) {
    struct Stream *stream = argument;
    for (;;) {
        pthread_mutex_lock(&sim_lock);
        while (!stream->head && stream->alive) pthread_cond_wait(&sim_changed, &sim_lock);
        struct Step *step = stream->head;
        pthread_mutex_unlock(&sim_lock);
        if (!step) return NULL;
        sim_delay(stream);
        if (step->kind == GRAPH)
            stream->now_us = sim_run_graph(step->graph, stream->context, stream, stream->now_us);
        else
            stream->now_us = sim_execute(step, stream->context, stream->id, stream->now_us);
        pthread_mutex_lock(&sim_lock);
        if (step->kind == RECORD) *step->mark = (struct Mark){1, sim_now_ms(), stream->now_us};
        stream->head = step->next;
        if (!stream->head) stream->tail = NULL;
        pthread_cond_broadcast(&sim_changed);
        pthread_mutex_unlock(&sim_lock);
        free(step);
    }
}

/* What a stream that is passed to a call has to be: alive, and of the context that is current. */
static CUresult check(CUstream stream) {
    CUcontext context;
    CUresult result = sim_need_context(&context);
    if (result) return result;
    if (!stream || (uintptr_t)stream <= 2) return NOT_SUPPORTED; /* the default stream */
    if (!stream->alive) return INVALID_HANDLE;
    return stream->context == context ? SUCCESS : INVALID_CONTEXT;
}

CUresult sim_add(CUstream stream, struct Step step) {
    CUresult result = check(stream);
    if (result) return result;
    pthread_mutex_lock(&sim_lock);
    if (stream->capture || (step.kind == WAIT && sim_is_captured(step.event))) {
        result = sim_capture(stream, &step);
    } else {
        if (step.kind == RECORD) {
            step.event->latest = calloc(1, sizeof *step.event->latest);
            step.event->capture = NULL;
        }
        if (step.kind == RECORD || step.kind == WAIT) step.mark = step.event->latest;
        struct Step *new = malloc(sizeof *new);
        *new = step;
        new->next = NULL;
        if (stream->tail)
            stream->tail->next = new;
        else
            stream->head = new;
        stream->tail = new;
        pthread_cond_broadcast(&sim_changed);
    }
    pthread_mutex_unlock(&sim_lock);
    return result;
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) {
    CALL(cuStreamCreate);
    (void)flags, (void)priority;
    CUcontext context;
    CUresult result = sim_need_context(&context);
    if (result) return result;
    CUstream new = calloc(1, sizeof *new);
    pthread_mutex_lock(&sim_lock);
    new->context = context;
    new->alive = 1;
    new->id = ++last_id;
    sim_live(LIVE_STREAMS, 1);
    pthread_mutex_unlock(&sim_lock);
    if (pthread_create(&new->thread, NULL, serve, new)) abort();
    pthread_detach(new->thread);
    *stream = new;
    return SUCCESS;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

/* The thread ends once its queue is empty, as the driver lets a destroyed stream finish. */
CUresult cuStreamDestroy_v2(CUstream stream) {
    CUresult result = sim_enter("cuStreamDestroy");
    pthread_mutex_lock(&sim_lock);
    if (!stream->alive) {
        sim_fault("a stream was destroyed twice");
        result = INVALID_HANDLE;
    } else if (!stream->context->references) {
        sim_fault("a stream was destroyed after its context");
        result = CONTEXT_IS_DESTROYED;
    } else {
        stream->alive = 0;
        sim_live(LIVE_STREAMS, -1);
        pthread_cond_broadcast(&sim_changed);
    }
    pthread_mutex_unlock(&sim_lock);
    return result;
}

static CUresult drain(CUstream stream) {
    pthread_mutex_lock(&sim_lock);
    while (stream->head) pthread_cond_wait(&sim_changed, &sim_lock);
    pthread_mutex_unlock(&sim_lock);
    return stream->context->error;
}

/* What waits does so also where it is made to fail, as it reports errors of what it waited for. */
CUresult cuStreamSynchronize(CUstream stream) {
    CUresult result = sim_enter("cuStreamSynchronize");
    if (!stream->alive) return INVALID_HANDLE;
    if (stream->capture) return sim_break_capture(stream);
    CUresult drained = drain(stream);
    return result ? result : drained;
}

/* A stream's number in the trace. */
int cudasim_stream_number(CUstream stream) { return stream->id; }

CUresult cuStreamQuery(CUstream stream) {
    CALL(cuStreamQuery);
    CUresult result = check(stream);
    return result ? result : stream->head ? NOT_READY : SUCCESS;
}

CUresult cuStreamGetCtx(CUstream stream, CUcontext *context) {
    CALL(cuStreamGetCtx);
    *context = stream->context;
    return stream->alive ? SUCCESS : INVALID_HANDLE;
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data) {
    CALL(cuLaunchHostFunc);
    struct Step step = {.kind = HOST_FUNCTION, .name = "host", .function = function, .data = data};
    step.cost_us = sim_next_host_us();
    return sim_add(stream, step);
}

CUresult cuEventCreate(CUevent *event, unsigned flags) {
    CALL(cuEventCreate);
    CUcontext context;
    CUresult result = sim_need_context(&context);
    if (result) return result;
    CUevent new = calloc(1, sizeof *new);
    pthread_mutex_lock(&sim_lock);
    new->context = context;
    new->alive = 1;
    new->timing = !(flags & 2);
    sim_live(LIVE_EVENTS, 1);
    pthread_mutex_unlock(&sim_lock);
    *event = new;
    return SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event) {
    CUresult result = sim_enter("cuEventDestroy");
    pthread_mutex_lock(&sim_lock);
    if (!event->alive) {
        sim_fault("an event was destroyed twice");
        result = INVALID_HANDLE;
    } else if (!event->context->references) {
        sim_fault("an event was destroyed after its context");
        result = CONTEXT_IS_DESTROYED;
    } else {
        event->alive = 0;
        sim_live(LIVE_EVENTS, -1);
    }
    pthread_mutex_unlock(&sim_lock);
    return result;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    CALL(cuEventRecord);
    if (!event->alive || !stream || event->context != stream->context) return INVALID_HANDLE;
    return sim_add(stream, (struct Step){.kind = RECORD, .name = "record", .event = event});
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
    CALL(cuStreamWaitEvent);
    (void)flags;
    if (!event->alive) return INVALID_HANDLE;
    return sim_add(stream, (struct Step){.kind = WAIT, .name = "wait", .event = event});
}

CUresult cuEventSynchronize(CUevent event) {
    CUresult result = sim_enter("cuEventSynchronize");
    if (!event->alive) return INVALID_HANDLE;
    pthread_mutex_lock(&sim_lock);
    while (event->latest && !event->latest->reached) pthread_cond_wait(&sim_changed, &sim_lock);
    pthread_mutex_unlock(&sim_lock);
    return result ? result : event->context->error;
}

CUresult cuEventQuery(CUevent event) {
    CALL(cuEventQuery);
    if (!event->alive) return INVALID_HANDLE;
    return event->latest && !event->latest->reached ? NOT_READY : event->context->error;
}

CUresult cuEventElapsedTime_v2(float *ms, CUevent start, CUevent end) {
    CALL(cuEventElapsedTime);
    const struct Mark *from = start->latest, *to = end->latest;
    if (!start->alive || !end->alive || !start->timing || !end->timing || !from || !to) return INVALID_HANDLE;
    if (!from->reached || !to->reached) return NOT_READY;
    *ms = (float)(sim_clock_is_on() ? (to->virtual_us - from->virtual_us) / 1e3 : to->real_ms - from->real_ms);
    return SUCCESS;
}

CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end) { return cuEventElapsedTime_v2(ms, start, end); }

CUresult cuCtxSynchronize(void) {
    CALL(cuCtxSynchronize);
    return NOT_SUPPORTED; /* waits for whole devices hide what waits for nothing */
}
