/* Devices, primary contexts, each thread's stack of contexts, peer access, and the driver's entry points. */
#define _GNU_SOURCE
#include "sim.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sim_device_count, sim_initialised;
struct Context sim_contexts[MAX_DEVICES];
static unsigned char apart[MAX_DEVICES][MAX_DEVICES]; /* who cannot reach each other's memory */
static uint64_t memory_bytes = 1ull << 30;
static __thread CUcontext stack[MAX_STACK];
static __thread int depth;

/* Devices i and j reach each other's memory, or do not. */
void cudasim_set_peer(int i, int j, int reach) {
    pthread_mutex_lock(&sim_lock);
    apart[i][j] = apart[j][i] = !reach;
    pthread_mutex_unlock(&sim_lock);
}

/* What each device has left to allocate, from now on. */
void cudasim_set_free_bytes(uint64_t bytes) {
    pthread_mutex_lock(&sim_lock);
    for (int i = 0; i < MAX_DEVICES; i++) sim_contexts[i].free_bytes = bytes;
    pthread_mutex_unlock(&sim_lock);
}

/* From now on the device's context answers as after an illegal access, until it is given back by all. */
void cudasim_lose(int device) {
    pthread_mutex_lock(&sim_lock);
    sim_contexts[device].error = ILLEGAL_ADDRESS;
    pthread_mutex_unlock(&sim_lock);
}

CUresult cuInit(unsigned flags) {
    (void)flags;
    CALL(cuInit);
    pthread_mutex_lock(&sim_lock);
    if (!sim_initialised) {
        const char *count = getenv("CUDASIM_DEVICES");
        sim_device_count = count ? atoi(count) : 1;
        if (sim_device_count > MAX_DEVICES) sim_device_count = MAX_DEVICES;
        for (int i = 0; i < MAX_DEVICES; i++) {
            sim_contexts[i].device = i;
            sim_contexts[i].free_bytes = memory_bytes;
        }
        sim_initialised = 1;
    }
    pthread_mutex_unlock(&sim_lock);
    return SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

static int is_device(CUdevice device) { return device >= 0 && device < sim_device_count; }

CUresult cuDeviceGetCount(int *count) {
    CALL(cuDeviceGetCount);
    *count = sim_device_count;
    return SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    CALL(cuDeviceGet);
    *device = ordinal;
    return is_device(ordinal) ? SUCCESS : INVALID_DEVICE;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    CALL(cuDeviceGetName);
    if (!is_device(device)) return INVALID_DEVICE;
    snprintf(name, (size_t)length, "Host Memory GPU");
    return SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    CALL(cuDeviceGetAttribute);
    if (!is_device(device)) return INVALID_DEVICE;
    switch (attribute) {
    case 75: *value = 8; break; /* compute capability, major */
    case 76: *value = 6; break; /* and minor */
    case 16: *value = 4; break; /* multiprocessors */
    default: *value = 1;
    }
    return SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    CALL(cuDeviceTotalMem);
    *bytes = memory_bytes;
    return is_device(device) ? SUCCESS : INVALID_DEVICE;
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
    CALL(cuDeviceCanAccessPeer);
    if (!is_device(device) || !is_device(peer)) return INVALID_DEVICE;
    *can = device != peer && !apart[device][peer];
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    CALL(cuDevicePrimaryCtxRetain);
    if (!is_device(device)) return INVALID_DEVICE;
    pthread_mutex_lock(&sim_lock);
    *context = &sim_contexts[device];
    if ((*context)->references++ == 0) {
        sim_live(LIVE_CONTEXTS, 1);
        (*context)->error = SUCCESS;
        memset((*context)->reaches, 0, sizeof (*context)->reaches);
    }
    pthread_mutex_unlock(&sim_lock);
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    CUresult result = sim_enter("cuDevicePrimaryCtxRelease");
    if (!is_device(device)) return INVALID_DEVICE;
    pthread_mutex_lock(&sim_lock);
    CUcontext context = &sim_contexts[device];
    if (context->references == 0) {
        sim_fault("a primary context was released more often than retained");
        result = INVALID_CONTEXT;
    } else if (--context->references == 0) {
        sim_live(LIVE_CONTEXTS, -1);
    }
    pthread_mutex_unlock(&sim_lock);
    return result;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    CALL(cuDevicePrimaryCtxGetState);
    if (!is_device(device)) return INVALID_DEVICE;
    *flags = 0;
    *active = sim_contexts[device].references > 0;
    return SUCCESS;
}

CUcontext sim_current(void) { return depth ? stack[depth - 1] : NULL; }

/* The device that is current in the calling thread, or -1; unlike the driver's own call it never fails. */
int cudasim_current_device(void) { return depth ? stack[depth - 1]->device : -1; }

CUresult sim_need_context(CUcontext *context) {
    *context = sim_current();
    if (!*context) return INVALID_CONTEXT;
    return (*context)->references ? (*context)->error : CONTEXT_IS_DESTROYED;
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
    CALL(cuCtxPushCurrent);
    if (!context || !context->references) return INVALID_CONTEXT;
    if (depth == MAX_STACK) return INVALID_VALUE;
    stack[depth++] = context;
    pthread_mutex_lock(&sim_lock);
    sim_live(LIVE_PUSHED, 1);
    pthread_mutex_unlock(&sim_lock);
    return SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    CUresult result = sim_enter("cuCtxPopCurrent");
    if (!depth) return INVALID_CONTEXT;
    CUcontext popped = stack[--depth];
    if (context) *context = popped;
    pthread_mutex_lock(&sim_lock);
    sim_live(LIVE_PUSHED, -1);
    pthread_mutex_unlock(&sim_lock);
    return result;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    CALL(cuCtxGetCurrent);
    *context = sim_current();
    return SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    CALL(cuCtxSetCurrent);
    int change = context && !depth ? 1 : !context && depth ? -1 : 0;
    if (context && !context->references) return INVALID_CONTEXT;
    if (depth) depth--;
    if (context) stack[depth++] = context;
    pthread_mutex_lock(&sim_lock);
    sim_live(LIVE_PUSHED, change);
    pthread_mutex_unlock(&sim_lock);
    return SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) {
    CALL(cuCtxGetDevice);
    if (!sim_current()) return INVALID_CONTEXT;
    *device = sim_current()->device;
    return SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version) {
    CALL(cuCtxGetApiVersion);
    (void)context;
    *version = 3020;
    return SUCCESS;
}

CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
    CALL(cuCtxEnablePeerAccess);
    CUcontext context;
    CUresult result = sim_need_context(&context);
    if (result) return result;
    if (!peer || !peer->references) return INVALID_CONTEXT;
    if (flags || peer == context || apart[context->device][peer->device]) return PEER_ACCESS_UNSUPPORTED;
    pthread_mutex_lock(&sim_lock);
    if (context->reaches[peer->device]) result = PEER_ACCESS_ALREADY_ENABLED;
    context->reaches[peer->device] = 1;
    pthread_mutex_unlock(&sim_lock);
    return result;
}

CUresult cuCtxDisablePeerAccess(CUcontext peer) {
    CALL(cuCtxDisablePeerAccess);
    CUcontext context;
    CUresult result = sim_need_context(&context);
    if (result) return result;
    pthread_mutex_lock(&sim_lock);
    if (!context->reaches[peer->device]) result = PEER_ACCESS_NOT_ENABLED;
    context->reaches[peer->device] = 0;
    pthread_mutex_unlock(&sim_lock);
    return result;
}

#define ERROR(code) {code, "CUDA_ERROR_" #code, "description of " #code}

static const struct { CUresult code; const char *name, *description; } errors[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    ERROR(INVALID_VALUE),
    ERROR(OUT_OF_MEMORY),
    ERROR(NOT_INITIALIZED),
    ERROR(INVALID_DEVICE),
    ERROR(INVALID_CONTEXT),
    ERROR(PEER_ACCESS_UNSUPPORTED),
    ERROR(INVALID_HANDLE),
    ERROR(NOT_FOUND),
    ERROR(NOT_READY),
    ERROR(ILLEGAL_ADDRESS),
    ERROR(PEER_ACCESS_ALREADY_ENABLED),
    ERROR(PEER_ACCESS_NOT_ENABLED),
    ERROR(CONTEXT_IS_DESTROYED),
    ERROR(LAUNCH_FAILED),
    ERROR(NOT_SUPPORTED),
    ERROR(STREAM_CAPTURE_UNSUPPORTED),
    ERROR(STREAM_CAPTURE_INVALIDATED),
    ERROR(STREAM_CAPTURE_UNJOINED),
};

CUresult cuGetErrorName(CUresult error, const char **text) {
    *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i].code == error) *text = errors[i].name;
    return *text ? SUCCESS : INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i].code == error) *text = errors[i].description;
    return *text ? SUCCESS : INVALID_VALUE;
}

/* As the driver does, answer with the newest form of a function: NAME_v3, NAME_v2, else NAME. */
CUresult cuGetProcAddress_v2(const char *symbol, void **address, int version, uint64_t flags, int *status) {
    (void)version, (void)flags;
    static const char *const suffixes[] = {"_v3", "_v2", ""};
    *address = NULL;
    for (int i = 0; i < 3 && !*address; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", symbol, suffixes[i]);
        Dl_info own, found;
        void *candidate = dlsym(RTLD_DEFAULT, name);
        if (!candidate) continue;
        dladdr((void *)cuGetProcAddress_v2, &own);
        dladdr(candidate, &found);
        if (found.dli_fbase == own.dli_fbase) *address = candidate;
    }
    if (status) *status = *address ? 0 : 1; /* found, or unknown symbol */
    return *address ? SUCCESS : NOT_FOUND;
}

CUresult cuGetProcAddress(const char *symbol, void **address, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, address, version, flags, NULL);
}
