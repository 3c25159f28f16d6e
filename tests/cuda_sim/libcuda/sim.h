/* A CUDA driver in host memory: what its parts share.
 *
 * Every stream is a thread that executes its operations in order, each after a random delay, so whatever the calls do not
 * order happens in any order. Objects are never given back to the allocator while the process lives, so that the use of
 * a destroyed one is answered with an error and not with a crash. One lock guards all state; operations run without it.
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

struct Event {
    CUcontext context;
    int alive;
    int timing;
    uint64_t recorded, done; /* how often it was recorded, and which of these has been reached */
    double time_ms;
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
    uint64_t generation;
    CUhostFn function;
    void *data;
    struct GraphExec *graph;
    struct Step *next;
};

struct Stream {
    CUcontext context;
    int id, alive;
    uint64_t random;
    unsigned epoch, slowness;
    struct Step *head, *tail; /* the head stays until it has been executed */
    struct Graph *capture;
    uint64_t capture_after; /* nodes that the next captured one comes after, as a bit each */
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
void sim_trace(const char *name, int device, int stream, size_t size);
uint64_t sim_random(uint64_t *state);
void sim_delay(struct Stream *stream);
double sim_now_ms(void);
enum { LIVE_CONTEXTS, LIVE_STREAMS, LIVE_EVENTS, LIVE_DEVICE, LIVE_PINNED, LIVE_PUSHED, LIVE_GRAPHS, LIVE_COUNT };

/* contexts.c */
CUcontext sim_current(void);
CUresult sim_need_context(CUcontext *context);

/* memory.c; both are called with the lock held */
struct Allocation *sim_find(const void *address, size_t size);
int sim_memory_is_intact(void);

/* streams.c */
CUresult sim_add(CUstream stream, struct Step step);
void sim_execute(struct Step *step, CUcontext context, int stream);

/* graphs.c */
CUresult sim_break_capture(CUstream stream);
/* the others are called with the lock held */
CUresult sim_capture(CUstream stream, struct Step *step);
int sim_is_captured(struct Event *event);
void sim_run_graph(struct GraphExec *graph, CUcontext context, struct Stream *stream);

/* Begin a call of the driver, which may be told to fail instead. */
#define CALL(name)                                                                                                     \
    do {                                                                                                               \
        CUresult injected_ = sim_enter(#name);                                                                         \
        if (injected_) return injected_;                                                                               \
    } while (0)

#endif
