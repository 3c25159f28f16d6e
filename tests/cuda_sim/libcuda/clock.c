/* Virtual time: what operations cost, from which streams and events take a time that real scheduling does not touch. */
#include "sim.h"

static int is_on;
static struct { double latency_us, us_per_byte; } links[MAX_DEVICES + 1][MAX_DEVICES + 1]; /* 0 is the host */
static __thread double next_host_us;

static int end_of(const struct Allocation *memory) { return memory->kind == PINNED_MEMORY ? 0 : memory->device + 1; }

/* What a copy takes by its link; with the lock held. */
double sim_copy_us(const struct Allocation *from, const struct Allocation *to, size_t size) {
    int source = end_of(from), target = end_of(to);
    return links[source][target].latency_us + (double)size * links[source][target].us_per_byte;
}

/* What the calling thread's next host function takes, said once. */
double sim_next_host_us(void) {
    double us = next_host_us;
    next_host_us = 0;
    return us;
}

int sim_clock_is_on(void) { return is_on; }

/* Let events tell virtual time, or real time again. Copies take no virtual time until their link is set. */
void cudasim_clock(int on) {
    pthread_mutex_lock(&sim_lock);
    is_on = on;
    for (int i = 0; i <= MAX_DEVICES; i++)
        for (int j = 0; j <= MAX_DEVICES; j++) links[i][j].latency_us = links[i][j].us_per_byte = 0;
    pthread_mutex_unlock(&sim_lock);
}

/* What copies that are enqueued from now on take one way between two devices, of which -1 is the host. */
void cudasim_link(int from, int to, double latency_us, double gb_s) {
    pthread_mutex_lock(&sim_lock);
    links[from + 1][to + 1].latency_us = latency_us;
    links[from + 1][to + 1].us_per_byte = 1e-3 / gb_s;
    pthread_mutex_unlock(&sim_lock);
}

/* What the next host function takes that this thread enqueues; also in a capture. */
void cudasim_next_host(double us) { next_host_us = us; }
