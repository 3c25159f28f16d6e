/* Stream capture and graphs. A graph is run in a random one of the orders that its dependencies allow. */
#include "sim.h"

#include <stdlib.h>

enum { MAX_NODES = 64, MAX_MEMBERS = 16 }; /* a set of nodes is one word */

struct Graph {
    struct Step nodes[MAX_NODES];
    uint64_t after[MAX_NODES];
    struct Stream *members[MAX_MEMBERS]; /* the streams that are captured into it, the first began it */
    int count, member_count, is_open, alive;
    CUresult error;
};

struct GraphExec {
    struct Graph graph;
    int alive;
};

typedef struct Graph *CUgraph;
typedef struct GraphExec *CUgraphExec;
typedef void *CUgraphNode;

int sim_is_captured(struct Event *event) { return event->capture && event->capture->is_open; }

/* Take a step into the graph that its stream, or the event that it waits for, is captured into. */
CUresult sim_capture(CUstream stream, struct Step *step) {
    struct Graph *graph = stream->capture;
    if (step->kind == WAIT) {
        if (!sim_is_captured(step->event) || (graph && graph != step->event->capture)) {
            if (graph) graph->error = STREAM_CAPTURE_INVALIDATED;
            return STREAM_CAPTURE_INVALIDATED;
        }
        if (!graph) {
            graph = stream->capture = step->event->capture;
            if (graph->member_count == MAX_MEMBERS) return OUT_OF_MEMORY;
            graph->members[graph->member_count++] = stream;
            stream->capture_after = 0;
        }
        stream->capture_after |= step->event->capture_after;
        return SUCCESS;
    }
    if (step->kind == RECORD) {
        step->event->capture = graph;
        step->event->capture_after = stream->capture_after;
        return SUCCESS;
    }
    if (step->kind == GRAPH) {
        graph->error = STREAM_CAPTURE_INVALIDATED;
        return STREAM_CAPTURE_UNSUPPORTED;
    }
    if (graph->count == MAX_NODES) return OUT_OF_MEMORY;
    graph->nodes[graph->count] = *step;
    graph->after[graph->count] = stream->capture_after;
    stream->capture_after = 1ull << graph->count++;
    return SUCCESS;
}

/* Answer what a stream must not do while it is captured; the graph is lost by it. */
CUresult sim_break_capture(CUstream stream) {
    pthread_mutex_lock(&sim_lock);
    stream->capture->error = STREAM_CAPTURE_INVALIDATED;
    pthread_mutex_unlock(&sim_lock);
    return STREAM_CAPTURE_UNSUPPORTED;
}

/* A node's handle is its number from 1. */
static uint64_t nodes_of(const CUgraphNode *handles, size_t count) {
    uint64_t nodes = 0;
    for (size_t i = 0; i < count; i++) nodes |= 1ull << ((uintptr_t)handles[i] - 1);
    return nodes;
}

CUresult cuStreamGetCaptureInfo_v2(CUstream stream, int *status, uint64_t *id, CUgraph *graph,
                                   const CUgraphNode **nodes, size_t *count) {
    CALL(cuStreamGetCaptureInfo);
    pthread_mutex_lock(&sim_lock);
    *status = stream->capture != NULL;
    *id = (uintptr_t)stream->capture;
    *graph = stream->capture;
    *nodes = stream->capture_handles;
    *count = 0;
    for (uintptr_t i = 0; stream->capture && i < MAX_NODES; i++)
        if (stream->capture_after >> i & 1) stream->capture_handles[(*count)++] = (void *)(i + 1);
    pthread_mutex_unlock(&sim_lock);
    return SUCCESS;
}

CUresult cuGraphAddChildGraphNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count,
                                  CUgraph child) {
    CALL(cuGraphAddChildGraphNode);
    if (!graph || !graph->alive || !child->alive) return INVALID_VALUE;
    pthread_mutex_lock(&sim_lock);
    CUresult result = graph->count == MAX_NODES ? OUT_OF_MEMORY : SUCCESS;
    if (!result) {
        /* The child is copied: what becomes of it later changes nothing here. */
        struct GraphExec *copy = calloc(1, sizeof *copy);
        copy->graph = *child;
        graph->nodes[graph->count] = (struct Step){.kind = GRAPH, .name = "graph", .graph = copy};
        graph->after[graph->count] = nodes_of(after, count);
        *node = (void *)(uintptr_t)++graph->count;
    }
    pthread_mutex_unlock(&sim_lock);
    return result;
}

CUresult cuStreamUpdateCaptureDependencies(CUstream stream, CUgraphNode *nodes, size_t count, unsigned is_set) {
    CALL(cuStreamUpdateCaptureDependencies);
    if (!stream->capture) return INVALID_VALUE;
    pthread_mutex_lock(&sim_lock);
    stream->capture_after = (is_set ? 0 : stream->capture_after) | nodes_of(nodes, count);
    pthread_mutex_unlock(&sim_lock);
    return SUCCESS;
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int mode) {
    CALL(cuStreamBeginCapture);
    (void)mode;
    if (!stream->alive || stream->capture) return INVALID_VALUE;
    CUgraph graph = calloc(1, sizeof *graph);
    pthread_mutex_lock(&sim_lock);
    graph->alive = graph->is_open = 1;
    graph->members[graph->member_count++] = stream;
    sim_live(LIVE_GRAPHS, 1);
    stream->capture = graph;
    stream->capture_after = 0;
    pthread_mutex_unlock(&sim_lock);
    return SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, int *status) {
    CALL(cuStreamIsCapturing);
    *status = stream->capture != NULL;
    return SUCCESS;
}

/* All nodes that must have run before `nodes` can be said to have. */
static uint64_t with_ancestors(const struct Graph *graph, uint64_t nodes) {
    for (int i = graph->count - 1; i >= 0; i--)
        if (nodes >> i & 1) nodes |= graph->after[i];
    return nodes;
}

static uint64_t all_nodes(const struct Graph *graph) {
    return graph->count == MAX_NODES ? ~0ull : (1ull << graph->count) - 1;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *result) {
    CUresult injected = sim_enter("cuStreamEndCapture");
    CUgraph graph = stream->capture;
    if (!graph || graph->members[0] != stream) return INVALID_VALUE;
    pthread_mutex_lock(&sim_lock);
    CUresult error = injected ? injected : graph->error;
    if (!error && with_ancestors(graph, stream->capture_after) != all_nodes(graph)) error = STREAM_CAPTURE_UNJOINED;
    graph->is_open = 0;
    for (int i = 0; i < graph->member_count; i++) graph->members[i]->capture = NULL;
    if (error) {
        graph->alive = 0;
        sim_live(LIVE_GRAPHS, -1);
    }
    *result = error ? NULL : graph;
    pthread_mutex_unlock(&sim_lock);
    return error;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *result, CUgraph graph, uint64_t flags) {
    CALL(cuGraphInstantiate);
    (void)flags;
    if (!graph->alive) return INVALID_VALUE;
    CUgraphExec new = calloc(1, sizeof *new);
    pthread_mutex_lock(&sim_lock);
    new->graph = *graph;
    new->alive = 1;
    sim_live(LIVE_GRAPHS, 1);
    pthread_mutex_unlock(&sim_lock);
    *result = new;
    return SUCCESS;
}

/* The name by which cuGetProcAddress is asked for it. */
CUresult cuGraphInstantiate(CUgraphExec *result, CUgraph graph, uint64_t flags) {
    return cuGraphInstantiateWithFlags(result, graph, flags);
}

static CUresult destroy(int *alive, CUresult result) {
    pthread_mutex_lock(&sim_lock);
    if (!*alive) {
        sim_fault("a graph was destroyed twice");
        result = INVALID_VALUE;
    } else {
        *alive = 0;
        sim_live(LIVE_GRAPHS, -1);
    }
    pthread_mutex_unlock(&sim_lock);
    return result;
}

CUresult cuGraphDestroy(CUgraph graph) { return destroy(&graph->alive, sim_enter("cuGraphDestroy")); }

CUresult cuGraphExecDestroy(CUgraphExec graph) { return destroy(&graph->alive, sim_enter("cuGraphExecDestroy")); }

CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream) {
    CALL(cuGraphLaunch);
    if (!graph->alive) return INVALID_VALUE;
    return sim_add(stream, (struct Step){.kind = GRAPH, .name = "graph", .graph = graph});
}

/* Run a graph that begins at a virtual time, and return the one at which the last node ends; a node begins when all that
 * it comes after have ended. */
double sim_run_graph(struct GraphExec *exec, CUcontext context, struct Stream *stream, double start_us) {
    struct Graph *graph = &exec->graph;
    double ends_us[MAX_NODES], last_us = start_us;
    uint64_t done = 0;
    while (done != all_nodes(graph)) {
        int node = (int)(sim_random(&stream->random) % (uint64_t)graph->count);
        if (done >> node & 1 || graph->after[node] & ~done) continue;
        struct Step *step = &graph->nodes[node];
        double begin_us = start_us;
        for (int i = 0; i < node; i++)
            if (graph->after[node] >> i & 1 && ends_us[i] > begin_us) begin_us = ends_us[i];
        ends_us[node] = step->kind == GRAPH ? sim_run_graph(step->graph, context, stream, begin_us)
                                            : sim_execute(step, context, stream->id, begin_us);
        if (ends_us[node] > last_us) last_us = ends_us[node];
        done |= 1ull << node;
    }
    return last_us;
}
