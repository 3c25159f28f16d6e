/* Device and pinned memory, poisoned and guarded, and the copies between them. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTES = 256 };
enum { NEW = 0xff, FREED = 0xdd, GUARD = 0xa5 }; /* 0xff..: not a number, in float32 and float16 */
static const size_t quarantine_limit = 4u << 20;

static struct Allocation *allocations; /* the newest first */
static size_t quarantined;

struct Allocation *sim_find(const void *address, size_t size) {
    const unsigned char *start = address;
    for (struct Allocation *it = allocations; it; it = it->next)
        if (it->alive && start >= it->base && start + size <= it->base + it->size) return it;
    return NULL;
}

static int all_are(const unsigned char *bytes, size_t size, unsigned char value) {
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != value) return 0;
    return 1;
}

int sim_memory_is_intact(void) {
    int intact = 1;
    for (struct Allocation *it = allocations; it; it = it->next) {
        intact &= all_are(it->base - GUARD_BYTES, GUARD_BYTES, GUARD) && all_are(it->base + it->size, GUARD_BYTES, GUARD);
        intact &= it->alive || all_are(it->base, it->size, FREED);
    }
    return intact;
}

static CUresult allocate(void **address, size_t size, enum Kind kind) {
    CUcontext context;
    CUresult result = sim_need_context(&context);
    if (result) return result;
    if (!size) return INVALID_VALUE;
    pthread_mutex_lock(&sim_lock);
    if (kind == DEVICE_MEMORY && size > context->free_bytes) {
        result = OUT_OF_MEMORY;
    } else {
        struct Allocation *new = calloc(1, sizeof *new);
        unsigned char *raw = aligned_alloc(GUARD_BYTES, (size + 3 * GUARD_BYTES - 1) / GUARD_BYTES * GUARD_BYTES);
        memset(raw, GUARD, size + 2 * GUARD_BYTES);
        memset(raw + GUARD_BYTES, NEW, size);
        *new = (struct Allocation){raw + GUARD_BYTES, size, kind, context->device, 1, allocations};
        allocations = new;
        if (kind == DEVICE_MEMORY) context->free_bytes -= size;
        sim_live(kind == DEVICE_MEMORY ? LIVE_DEVICE : LIVE_PINNED, 1);
        *address = new->base;
    }
    pthread_mutex_unlock(&sim_lock);
    return result;
}

/* Freed memory stays a while, so that what is still written to it is found out; the oldest goes first. */
static void shrink_quarantine(void) {
    while (quarantined > quarantine_limit) {
        struct Allocation **oldest = NULL;
        for (struct Allocation **it = &allocations; *it; it = &(*it)->next)
            if (!(*it)->alive) oldest = it;
        struct Allocation *memory = *oldest;
        if (!all_are(memory->base, memory->size, FREED)) sim_fault("memory was written after it was freed");
        quarantined -= memory->size;
        free(memory->base - GUARD_BYTES);
        *oldest = memory->next; /* the description stays, for operations that still name it */
    }
}

static CUresult give_back(void *address, enum Kind kind, CUresult result) {
    pthread_mutex_lock(&sim_lock);
    struct Allocation *memory = sim_find(address, 1);
    if (!memory || memory->base != address || memory->kind != kind) {
        sim_fault("memory was freed that is not allocated");
        result = INVALID_VALUE;
    } else if (!sim_contexts[memory->device].references) {
        sim_fault("memory was freed after its context");
        result = CONTEXT_IS_DESTROYED;
    } else {
        memory->alive = 0;
        memset(memory->base, FREED, memory->size);
        quarantined += memory->size;
        if (kind == DEVICE_MEMORY) sim_contexts[memory->device].free_bytes += memory->size;
        sim_live(kind == DEVICE_MEMORY ? LIVE_DEVICE : LIVE_PINNED, -1);
        shrink_quarantine();
    }
    pthread_mutex_unlock(&sim_lock);
    return result;
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
    CALL(cuMemAlloc);
    return allocate((void **)address, size, DEVICE_MEMORY);
}

CUresult cuMemFree_v2(CUdeviceptr address) {
    return give_back((void *)address, DEVICE_MEMORY, sim_enter("cuMemFree"));
}

CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags) {
    CALL(cuMemHostAlloc);
    (void)flags;
    return allocate(address, size, PINNED_MEMORY);
}

CUresult cuMemAllocHost_v2(void **address, size_t size) { return cuMemHostAlloc(address, size, 0); }

CUresult cuMemFreeHost(void *address) { return give_back(address, PINNED_MEMORY, sim_enter("cuMemFreeHost")); }

CUresult cuMemGetInfo_v2(size_t *available, size_t *total) {
    CALL(cuMemGetInfo);
    CUcontext context;
    CUresult result = sim_need_context(&context);
    if (result) return result;
    *available = context->free_bytes;
    *total = 1ull << 30;
    return SUCCESS;
}

/* A copy between whole ranges of allocations, of `to_device` and `from_device`; -1 is pinned memory. */
static CUresult copy(const char *name, void *to, int to_device, const void *from, int from_device, size_t size,
                     CUstream stream) {
    CUcontext context;
    CUresult result = sim_need_context(&context);
    if (result) return result;
    struct Step step = {.kind = COPY, .name = name, .to = to, .from = (unsigned char *)from, .size = size};
    pthread_mutex_lock(&sim_lock);
    step.to_memory = sim_find(to, size);
    step.from_memory = sim_find(from, size);
    struct Allocation *sides[2] = {step.to_memory, step.from_memory};
    int devices[2] = {to_device, from_device};
    for (int i = 0; i < 2; i++) {
        int fits = sides[i] && (devices[i] < 0 ? sides[i]->kind == PINNED_MEMORY
                                               : sides[i]->kind == DEVICE_MEMORY && sides[i]->device == devices[i]);
        if (!fits) {
            sim_fault("a copy leaves its allocation, is of another device, or of host memory that is not pinned");
            result = INVALID_VALUE;
        }
    }
    if (!result) step.cost_us = sim_copy_us(step.from_memory, step.to_memory, size);
    pthread_mutex_unlock(&sim_lock);
    return result ? result : sim_add(stream, step);
}

static int current_device(void) { return sim_current() ? sim_current()->device : 0; }

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
    CALL(cuMemcpyHtoDAsync);
    return copy("h2d", (void *)to, current_device(), from, -1, size, stream);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream) {
    CALL(cuMemcpyDtoHAsync);
    return copy("d2h", to, -1, (void *)from, current_device(), size, stream);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    CALL(cuMemcpyDtoDAsync);
    return copy("d2d", (void *)to, current_device(), (void *)from, current_device(), size, stream);
}

CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t size,
                           CUstream stream) {
    CALL(cuMemcpyPeerAsync);
    if (!to_context || !from_context || !to_context->references || !from_context->references) return INVALID_CONTEXT;
    int reached = to_context == from_context || to_context->reaches[from_context->device] ||
                  from_context->reaches[to_context->device];
    return copy(reached ? "peer" : "peer-through-host", (void *)to, to_context->device, (void *)from,
                from_context->device, size, stream);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t size, CUstream stream) {
    CALL(cuMemsetD8Async);
    struct Step step = {.kind = SET, .name = "set", .to = (unsigned char *)to, .size = size, .value = value};
    pthread_mutex_lock(&sim_lock);
    step.to_memory = sim_find(step.to, size);
    pthread_mutex_unlock(&sim_lock);
    return step.to_memory ? sim_add(stream, step) : INVALID_VALUE;
}
