/* A CUDA driver in host memory: what its parts share.
 *
 * Every stream is a thread that executes its operations in order, each after a random delay, so whatever the calls do not
 * order happens in any order. Beside that, streams and events keep a virtual time: an operation begins when the one before
 * it has ended, a wait ends when the record has been reached that it is for, and a test says what operations cost. Objects
 * are never given back to the allocator while the process lives, so that the use of a destroyed one is answered with an
 * error and not with a crash. One lock guards all state; operations run without it.
 */
#ifndef SIM_H
#define SIM_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct Context *CUcontext;
typedef struct Stream *CUstream;
typedef struct Event *CUevent;
typedef void (*CUhostFn)(void *);

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    PEER_ACCESS_UNSUPPORTED = 217,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    PEER_ACCESS_ALREADY_ENABLED = 704,
    PEER_ACCESS_NOT_ENABLED = 705,
    CONTEXT_IS_DESTROYED = 709,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    STREAM_CAPTURE_UNSUPPORTED = 900,
    STREAM_CAPTURE_INVALIDATED = 901,
    STREAM_CAPTURE_UNJOINED = 904,
};

enum { MAX_DEVICES = 16, MAX_STACK = 64 };
enum Kind { DEVICE_MEMORY, PINNED_MEMORY };
enum Operation { COPY, SET, HOST_FUNCTION, RECORD, WAIT, GRAPH };

struct Context {
    int device;
    int references;
    CUresult error; /* sticky, as after an illegal access */
    unsigned char reaches[MAX_DEVICES];
    uint64_t free_bytes;
};

/* `size` bytes at `base`, between two guards. */
struct Allocation {
    unsigned char *base;
    size_t size;
    enum Kind kind;
    int device;
    int alive;
    struct Allocation *next;
};

/* One record of an event: who waits for it keeps to it, also when the event is recorded anew. */
struct Mark {
    int reached;
    double real_ms, virtual_us;
};

struct Event {
    CUcontext context;
    int alive;
    int timing;
    struct Mark *latest; /* none before the first record */
    struct Graph *capture; /* the graph that a record in capture belongs to, and the node that it stands for */
    uint64_t capture_after;
};

struct Step {
    enum Operation kind;
    const char *name;
    unsigned char *to, *from;
    struct Allocation *to_memory, *from_memory;
    size_t size;
    unsigned char value;
    struct Event *event;
    struct Mark *mark;
    CUhostFn function;
    void *data;
    struct GraphExec *graph;
    double cost_us;
    struct Step *next;
};

struct Stream {
    CUcontext context;
    int id, alive;
    uint64_t random;
    unsigned epoch, slowness;
    double now_us; /* the virtual time at which what has been executed ended */
    struct Step *head, *tail; /* the head stays until it has been executed */
    struct Graph *capture;
    uint64_t capture_after; /* nodes that the next captured one comes after, as a bit each */
    void *capture_handles[64]; /* the same nodes as handles, for whoever asks */
    pthread_t thread;
};

extern pthread_mutex_t sim_lock;
extern pthread_cond_t sim_changed;
extern int sim_device_count, sim_initialised;
extern struct Context sim_contexts[MAX_DEVICES];

/* control.c */
CUresult sim_enter(const char *name);
void sim_live(int what, long change);
void sim_fault(const char *what);
void sim_trace(const char *name, int device, int stream, size_t size, double begin_us, double end_us);
uint64_t sim_random(uint64_t *state);
void sim_delay(struct Stream *stream);
double sim_now_ms(void);
enum { LIVE_CONTEXTS, LIVE_STREAMS, LIVE_EVENTS, LIVE_DEVICE, LIVE_PINNED, LIVE_PUSHED, LIVE_GRAPHS, LIVE_COUNT };

/* clock.c */
double sim_copy_us(const struct Allocation *from, const struct Allocation *to, size_t size);
double sim_next_host_us(void);
int sim_clock_is_on(void);

/* contexts.c */
CUcontext sim_current(void);
CUresult sim_need_context(CUcontext *context);

/* memory.c; both are called with the lock held */
struct Allocation *sim_find(const void *address, size_t size);
int sim_memory_is_intact(void);

/* streams.c */
CUresult sim_add(CUstream stream, struct Step step);
double sim_execute(struct Step *step, CUcontext context, int stream, double begin_us);

/* graphs.c */
CUresult sim_break_capture(CUstream stream);
/* the others are called with the lock held */
CUresult sim_capture(CUstream stream, struct Step *step);
int sim_is_captured(struct Event *event);
double sim_run_graph(struct GraphExec *graph, CUcontext context, struct Stream *stream, double start_us);

/* Begin a call of the driver, which may be told to fail instead. */
#define CALL(name)                                                                                                     \
    do {                                                                                                               \
        CUresult injected_ = sim_enter(#name);                                                                         \
        if (injected_) return injected_;                                                                               \
    } while (0)

#endif
