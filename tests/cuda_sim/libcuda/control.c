/* What tests set and read: seeds, delays, failures, accounts and the trace. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

pthread_mutex_t sim_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t sim_changed = PTHREAD_COND_INITIALIZER;

static long live[LIVE_COUNT];
static long calls, steps, faults;
static long fail_at;
static CUresult fail_with;
static char failed_call[64], fault_text[128];
static uint64_t seed = 1;
static unsigned epoch, delay_us, hold_us;
static int held;

static struct { char name[40]; int device, stream; size_t size; double begin_us, end_us; } *trace;
static size_t trace_length, trace_room;
static int tracing;

CUresult sim_enter(const char *name) {
    CUresult result = SUCCESS;
    pthread_mutex_lock(&sim_lock);
    if (!sim_initialised && strcmp(name, "cuInit")) result = NOT_INITIALIZED;
    calls++;
    if (fail_at > 0 && --fail_at == 0) {
        result = fail_with;
        snprintf(failed_call, sizeof failed_call, "%s", name);
    }
    pthread_mutex_unlock(&sim_lock);
    return result;
}

void sim_live(int what, long change) { live[what] += change; }

void sim_fault(const char *what) {
    faults++;
    snprintf(fault_text, sizeof fault_text, "%s", what);
}

void sim_trace(const char *name, int device, int stream, size_t size, double begin_us, double end_us) {
    steps++;
    if (!tracing) return;
    if (trace_length == trace_room) {
        trace_room = trace_room ? 2 * trace_room : 1024;
        trace = realloc(trace, trace_room * sizeof *trace);
    }
    snprintf(trace[trace_length].name, sizeof trace[0].name, "%s", name);
    trace[trace_length].device = device;
    trace[trace_length].stream = stream;
    trace[trace_length].begin_us = begin_us;
    trace[trace_length].end_us = end_us;
    trace[trace_length++].size = size;
}

uint64_t sim_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

double sim_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

/* Hold an operation back: half of them not at all, and those of a stream that is slow this time ten times longer. */
void sim_delay(struct Stream *stream) {
    pthread_mutex_lock(&sim_lock);
    if (stream->epoch != epoch) {
        stream->epoch = epoch;
        stream->random = seed * 1000003u + (uint64_t)stream->id;
        stream->slowness = sim_random(&stream->random) % 3 == 0 ? 10 : 1;
    }
    uint64_t draw = sim_random(&stream->random);
    unsigned wait_us = delay_us && draw % 2 ? (unsigned)(draw / 2 % delay_us) * stream->slowness : 0;
    if (stream->id == held) wait_us += hold_us;
    pthread_mutex_unlock(&sim_lock);
    if (wait_us) usleep(wait_us);
}

/* Draw delays anew: up to `longest_us`, ten times that on slow streams; 0 for none. */
void cudasim_delays(uint64_t new_seed, unsigned longest_us) {
    pthread_mutex_lock(&sim_lock);
    seed = new_seed;
    delay_us = longest_us;
    epoch++;
    pthread_mutex_unlock(&sim_lock);
}

/* Hold every operation of one stream, by its number in the trace, back by as much; 0 for none. */
void cudasim_hold(int stream, unsigned us) {
    pthread_mutex_lock(&sim_lock);
    held = stream;
    hold_us = us;
    pthread_mutex_unlock(&sim_lock);
}

/* Make the `call`-th call from now (1 is the next) return `error`. Calls that give something up do so all the same. */
void cudasim_fail_at(long call, CUresult error) {
    pthread_mutex_lock(&sim_lock);
    fail_at = call;
    fail_with = error;
    failed_call[0] = 0;
    pthread_mutex_unlock(&sim_lock);
}

/* The call that was made to fail, or an empty string. */
const char *cudasim_failed_call(void) { return failed_call; }

long cudasim_live(int what) {
    pthread_mutex_lock(&sim_lock);
    long count = what >= 0 && what < LIVE_COUNT ? live[what] : -1;
    pthread_mutex_unlock(&sim_lock);
    return count;
}

long cudasim_calls(void) { return calls; }
long cudasim_steps(void) { return steps; }

/* How often memory or an object was misused; `text` receives the latest. Looks over all guards first. */
long cudasim_faults(char *text, size_t size) {
    pthread_mutex_lock(&sim_lock);
    if (!sim_memory_is_intact()) sim_fault("memory was written outside of an allocation or after it was freed");
    snprintf(text, size, "%s", faults ? fault_text : "");
    long count = faults;
    faults = 0;
    pthread_mutex_unlock(&sim_lock);
    return count;
}

void cudasim_trace_start(void) {
    pthread_mutex_lock(&sim_lock);
    trace_length = 0;
    tracing = 1;
    pthread_mutex_unlock(&sim_lock);
}

/* Stop, and write what was executed since the start as lines "name device stream bytes begin end", the last two in
 * virtual us; return the length needed. */
size_t cudasim_trace_stop(char *text, size_t size) {
    pthread_mutex_lock(&sim_lock);
    size_t used = 0;
    tracing = 0;
    for (size_t i = 0; i < trace_length; i++) {
        size_t room = used < size ? size - used : 0;
        used += (size_t)snprintf(room ? text + used : NULL, room, "%s %d %d %zu %.17g %.17g\n", trace[i].name,
                                 trace[i].device, trace[i].stream, trace[i].size, trace[i].begin_us, trace[i].end_us);
    }
    pthread_mutex_unlock(&sim_lock);
    return used;
}
