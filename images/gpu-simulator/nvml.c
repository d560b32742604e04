/*
 * libnvidia-ml.so.1 over a state file: what NVIDIA's device plugin, container toolkit and any NVML exporter
 * ask of a driver, answered for simulated GPUs.
 *
 * Where there is no state file (a job's container), the GPUs are the /dev/nvidia* nodes that it was given,
 * as the real driver shows only those that the cgroup lets through.
 *
 * Identity (index, UUID, name, PCI) is answered even for a lost GPU, as the driver caches it: the device plugin
 * needs the UUID of a fault to mark that one device and not all of them. Readings of a lost GPU fail.
 */
#define _GNU_SOURCE
#include "nvml.h"
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default"))) nvmlReturn_t
#define MIB (1ull << 20)
#define EVENT_POLL_MS 200

struct sim_device {
    char uuid[48]; /* set when the handle is first given out; then it stands for this GPU for ever */
};

struct sim_event_set {
    long position; /* up to where the event log was read */
    unsigned long long masks[SIM_MAX_GPUS];
    nvmlDevice_t devices[SIM_MAX_GPUS];
    unsigned count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned users;
static struct sim_device handles[4 * SIM_MAX_GPUS];
static struct sim_state state;
static struct timespec state_time;
static ino_t state_inode;

/* The GPUs of a container: no state file, only the device nodes it was given. */
static bool load_from_nodes(void)
{
    glob_t nodes;
    if (glob("/dev/nvidia[0-9]*", 0, NULL, &nodes) != 0)
        return false;
    state = (struct sim_state){.driver = SIM_DRIVER_VERSION};
    for (size_t i = 0; i < nodes.gl_pathc && state.gpu_count < SIM_MAX_GPUS; i++) {
        struct sim_gpu *gpu = &state.gpus[state.gpu_count++];
        sim_gpu_defaults(gpu, (unsigned)strtoul(nodes.gl_pathv[i] + strlen("/dev/nvidia"), NULL, 10));
        snprintf(gpu->uuid, sizeof gpu->uuid, "GPU-00000000-0000-0000-0000-%012u", gpu->minor);
    }
    globfree(&nodes);
    state_inode = 0;
    return true;
}

/* Reads the state again where it changed. Called with the lock held. */
static nvmlReturn_t refresh(void)
{
    const char *path = sim_state_path();
    struct stat now;
    char error[SIM_ERROR_SIZE];
    if (stat(path, &now) != 0)
        return load_from_nodes() ? NVML_SUCCESS : NVML_ERROR_DRIVER_NOT_LOADED;
    if (now.st_ino == state_inode && now.st_mtim.tv_sec == state_time.tv_sec &&
        now.st_mtim.tv_nsec == state_time.tv_nsec)
        return NVML_SUCCESS;
    static struct sim_state fresh;
    if (!sim_load(path, &fresh, error)) {
        fprintf(stderr, "gpu-simulator: %s\n", error);
        return NVML_ERROR_UNKNOWN;
    }
    state = fresh;
    state_inode = now.st_ino;
    state_time = now.st_mtim;
    return NVML_SUCCESS;
}

/* Takes the lock and makes the state current. On failure the lock is free again. */
static nvmlReturn_t enter(void)
{
    pthread_mutex_lock(&lock);
    nvmlReturn_t result = users ? refresh() : NVML_ERROR_UNINITIALIZED;
    if (result != NVML_SUCCESS)
        pthread_mutex_unlock(&lock);
    return result;
}

static nvmlReturn_t leave(nvmlReturn_t result)
{
    pthread_mutex_unlock(&lock);
    return result;
}

static int index_of(nvmlDevice_t device)
{
    size_t slot = device ? (size_t)(device - handles) : sizeof handles;
    if (slot >= sizeof handles / sizeof handles[0])
        return -1;
    for (unsigned i = 0; i < state.gpu_count; i++)
        if (strcmp(state.gpus[i].uuid, device->uuid) == 0)
            return (int)i;
    return -1;
}

static nvmlReturn_t handle_of(unsigned index, nvmlDevice_t *out)
{
    for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++) {
        if (!*handles[i].uuid)
            strcpy(handles[i].uuid, state.gpus[index].uuid);
        if (strcmp(handles[i].uuid, state.gpus[index].uuid) == 0) {
            *out = &handles[i];
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_MEMORY;
}

static nvmlReturn_t text(char *out, unsigned size, const char *value)
{
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(value) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(out, value);
    return NVML_SUCCESS;
}

/* A call on one device: its body sees `gpu`, `index` and `result`; an IDENTITY works on a lost GPU too. */
#define DEVICE_CALL(signature, works_when_lost, ...)              \
    API signature                                                 \
    {                                                             \
        nvmlReturn_t result = enter();                            \
        if (result != NVML_SUCCESS)                               \
            return result;                                        \
        int index = index_of(device);                             \
        if (index < 0)                                            \
            return leave(NVML_ERROR_INVALID_ARGUMENT);            \
        const struct sim_gpu *gpu = &state.gpus[index];           \
        if (gpu->lost && !(works_when_lost))                      \
            return leave(NVML_ERROR_GPU_IS_LOST);                 \
        __VA_ARGS__;                                              \
        return leave(result);                                     \
    }
#define IDENTITY(signature, ...) DEVICE_CALL(signature, true, __VA_ARGS__)
#define READING(signature, ...) DEVICE_CALL(signature, false, __VA_ARGS__)
/* A reading that is one number. */
#define VALUE(function, type, value)                              \
    READING(function(nvmlDevice_t device, type *out), {           \
        if (!out)                                                 \
            return leave(NVML_ERROR_INVALID_ARGUMENT);            \
        *out = (type)(value);                                     \
    })
/* A reading that is one number, of a kind that the caller names (clock, threshold, …). */
#define VALUE_OF(function, type, value)                           \
    READING(function(nvmlDevice_t device, unsigned which, type *out), { \
        if (!out)                                                 \
            return leave(NVML_ERROR_INVALID_ARGUMENT);            \
        *out = (type)(value);                                     \
    })
#define ALIAS(name, of, ...) \
    API name(__VA_ARGS__) __attribute__((alias(#of)))

/* ---- library and system ---- */

API nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    nvmlReturn_t result = refresh();
    if (result == NVML_SUCCESS)
        users++;
    return leave(result);
}

API nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}
ALIAS(nvmlInit, nvmlInit_v2, void);

API nvmlShutdown(void)
{
    pthread_mutex_lock(&lock);
    if (!users)
        return leave(NVML_ERROR_UNINITIALIZED);
    users--;
    return leave(NVML_SUCCESS);
}

__attribute__((visibility("default"))) const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_MEMORY: return "Insufficient Memory";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument Version Mismatch";
    default: return "Unknown Error";
    }
}

API nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    nvmlReturn_t result = enter();
    return result == NVML_SUCCESS ? leave(text(version, length, state.driver)) : result;
}

API nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    return text(version, length, "13." SIM_DRIVER_VERSION);
}

API nvmlSystemGetCudaDriverVersion(int *version)
{
    if (!version)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = SIM_CUDA_VERSION;
    return NVML_SUCCESS;
}
ALIAS(nvmlSystemGetCudaDriverVersion_v2, nvmlSystemGetCudaDriverVersion, int *version);

API nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length)
{
    char path[64], command[256] = "";
    snprintf(path, sizeof path, "/proc/%u/comm", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return NVML_ERROR_NOT_FOUND;
    bool got = fgets(command, sizeof command, file);
    fclose(file);
    command[strcspn(command, "\n")] = '\0';
    return got ? text(name, length, command) : NVML_ERROR_NOT_FOUND;
}

/* ---- finding devices ---- */

API nvmlDeviceGetCount_v2(unsigned *count)
{
    nvmlReturn_t result = enter();
    if (result != NVML_SUCCESS)
        return result;
    if (!count)
        return leave(NVML_ERROR_INVALID_ARGUMENT);
    *count = state.gpu_count;
    return leave(NVML_SUCCESS);
}
ALIAS(nvmlDeviceGetCount, nvmlDeviceGetCount_v2, unsigned *count);

API nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    nvmlReturn_t result = enter();
    if (result != NVML_SUCCESS)
        return result;
    if (!device || index >= state.gpu_count)
        return leave(NVML_ERROR_INVALID_ARGUMENT);
    return leave(state.gpus[index].lost ? NVML_ERROR_GPU_IS_LOST : handle_of(index, device));
}
ALIAS(nvmlDeviceGetHandleByIndex, nvmlDeviceGetHandleByIndex_v2, unsigned index, nvmlDevice_t *device);

static void bus_id(const struct sim_gpu *gpu, char *out, size_t size)
{
    snprintf(out, size, "00000000:%02X:00.0", gpu->minor + 1);
}

static bool has_uuid(const struct sim_gpu *gpu, const char *wanted)
{
    return strcmp(gpu->uuid, wanted) == 0;
}

static bool has_bus_id(const struct sim_gpu *gpu, const char *wanted)
{
    char own[32];
    bus_id(gpu, own, sizeof own);
    /* Both spellings of the domain, 0000: and 00000000:, name the same device. */
    return strcasecmp(own, wanted) == 0 || strcasecmp(own + 4, wanted) == 0;
}

static nvmlReturn_t find(bool (*matches)(const struct sim_gpu *, const char *), const char *wanted,
                         nvmlDevice_t *device)
{
    nvmlReturn_t result = enter();
    if (result != NVML_SUCCESS)
        return result;
    if (!wanted || !device)
        return leave(NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned i = 0; i < state.gpu_count; i++)
        if (matches(&state.gpus[i], wanted))
            return leave(state.gpus[i].lost ? NVML_ERROR_GPU_IS_LOST : handle_of(i, device));
    return leave(NVML_ERROR_NOT_FOUND);
}

API nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return find(has_uuid, uuid, device);
}

API nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *device)
{
    return find(has_bus_id, id, device);
}
ALIAS(nvmlDeviceGetHandleByPciBusId, nvmlDeviceGetHandleByPciBusId_v2, const char *id, nvmlDevice_t *device);

/* ---- identity ---- */

IDENTITY(nvmlDeviceGetUUID(nvmlDevice_t device, char *out, unsigned size), result = text(out, size, gpu->uuid))
IDENTITY(nvmlDeviceGetName(nvmlDevice_t device, char *out, unsigned size), result = text(out, size, gpu->name))
IDENTITY(nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *out), *out = (unsigned)index)
IDENTITY(nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *out), *out = gpu->minor)
IDENTITY(nvmlDeviceGetBrand(nvmlDevice_t device, unsigned *out), *out = NVML_BRAND_NVIDIA)
IDENTITY(nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned *out), *out = NVML_ARCH_HOPPER)
IDENTITY(nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor), *major = 9; *minor = 0)
IDENTITY(nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *out), *out = 0)
IDENTITY(nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *out), *out = 0)
IDENTITY(nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending),
         *current = *pending = 0; result = NVML_ERROR_NOT_SUPPORTED)
IDENTITY(nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *out), {
    *out = (nvmlPciInfo_t){.bus = gpu->minor + 1, .pciDeviceId = 0x233010de};
    bus_id(gpu, out->busId, sizeof out->busId);
    memcpy(out->busIdLegacy, out->busId + 4, sizeof "0000:00:00.0");
})
ALIAS(nvmlDeviceGetPciInfo, nvmlDeviceGetPciInfo_v3, nvmlDevice_t device, nvmlPciInfo_t *out);
ALIAS(nvmlDeviceGetPciInfo_v2, nvmlDeviceGetPciInfo_v3, nvmlDevice_t device, nvmlPciInfo_t *out);

/* ---- readings ---- */

READING(nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out),
        *out = ((nvmlUtilization_t){gpu->utilization, gpu->memory_utilization}))
READING(nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *out),
        *out = ((nvmlMemory_t){.total = gpu->memory_total_mib * MIB,
                               .free = (gpu->memory_total_mib - gpu->memory_used_mib) * MIB,
                               .used = gpu->memory_used_mib * MIB}))
READING(nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out), {
    if (out->version != (sizeof(nvmlMemory_v2_t) | 2u << 24))
        return leave(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    out->total = gpu->memory_total_mib * MIB;
    out->used = gpu->memory_used_mib * MIB;
    out->free = out->total - out->used;
    out->reserved = 0;
})
VALUE_OF(nvmlDeviceGetTemperature, unsigned, ((void)which, gpu->temperature))
READING(nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *out),
        out->temperature = (int)gpu->temperature)
VALUE(nvmlDeviceGetPowerUsage, unsigned, gpu->power_watts * 1000)
VALUE(nvmlDeviceGetPowerManagementLimit, unsigned, gpu->power_limit_watts * 1000)
VALUE(nvmlDeviceGetEnforcedPowerLimit, unsigned, gpu->power_limit_watts * 1000)
VALUE(nvmlDeviceGetPerformanceState, unsigned, gpu->utilization ? 0 : 8)
VALUE(nvmlDeviceGetPersistenceMode, unsigned, 1)
VALUE(nvmlDeviceGetComputeMode, unsigned, 0)
/* Clock types: 0 graphics, 1 SM, 2 memory, 3 video. */
VALUE_OF(nvmlDeviceGetClockInfo, unsigned, which == 2 ? gpu->memory_clock_mhz : gpu->sm_clock_mhz)
VALUE_OF(nvmlDeviceGetMaxClockInfo, unsigned, which == 2 ? gpu->memory_clock_mhz : gpu->sm_clock_mhz)

/* Copies the processes in whichever layout `entry` has; tells the needed size when the array is too small. */
#define COPY_PROCESSES(entry)                                              \
    unsigned room = *count;                                                \
    *count = gpu->process_count;                                           \
    if (room < gpu->process_count)                                         \
        return leave(NVML_ERROR_INSUFFICIENT_SIZE);                        \
    for (unsigned i = 0; i < gpu->process_count; i++) {                    \
        const struct sim_process *process = &gpu->processes[i];            \
        out[i] = entry;                                                    \
    }
READING(nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v1_t *out), {
    COPY_PROCESSES(((nvmlProcessInfo_v1_t){process->pid, process->memory_mib * MIB}))
})
READING(nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out), {
    COPY_PROCESSES(((nvmlProcessInfo_t){process->pid, process->memory_mib * MIB, NVML_NO_INSTANCE, NVML_NO_INSTANCE}))
})
ALIAS(nvmlDeviceGetComputeRunningProcesses_v2, nvmlDeviceGetComputeRunningProcesses_v3, nvmlDevice_t device,
      unsigned *count, nvmlProcessInfo_t *out);
READING(nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out),
        (void)out; *count = 0)
ALIAS(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlDevice_t device,
      unsigned *count, nvmlProcessInfo_t *out);
ALIAS(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlDevice_t device,
      unsigned *count, nvmlProcessInfo_t *out);

/* All GPUs of a node sit behind one PCIe switch, without NVLink. */
IDENTITY(nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device, nvmlDevice_t other, unsigned *level),
         (void)other; *level = NVML_TOPOLOGY_SINGLE)

/* ---- events ---- */

API nvmlEventSetCreate(nvmlEventSet_t *out)
{
    nvmlReturn_t result = enter();
    if (result != NVML_SUCCESS)
        return result;
    struct sim_event_set *set = out ? calloc(1, sizeof *set) : NULL;
    if (!set)
        return leave(out ? NVML_ERROR_MEMORY : NVML_ERROR_INVALID_ARGUMENT);
    /* Only what happens from now on is delivered, as by the driver. */
    char path[PATH_MAX];
    struct stat log;
    sim_events_path(sim_state_path(), path, sizeof path);
    set->position = stat(path, &log) == 0 ? (long)log.st_size : 0;
    *out = set;
    return leave(NVML_SUCCESS);
}

API nvmlEventSetFree(nvmlEventSet_t set)
{
    free(set);
    return NVML_SUCCESS;
}

VALUE(nvmlDeviceGetSupportedEventTypes, unsigned long long,
      NVML_EVENT_XID | NVML_EVENT_DOUBLE_BIT_ECC | NVML_EVENT_SINGLE_BIT_ECC)

READING(nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set), {
    unsigned slot = 0;
    while (slot < set->count && set->devices[slot] != device)
        slot++;
    if (slot == SIM_MAX_GPUS)
        return leave(NVML_ERROR_MEMORY);
    set->devices[slot] = device;
    set->masks[slot] |= types;
    set->count += slot == set->count;
})

/* The next fault of a registered device, if the log has one. */
static bool next_event(nvmlEventSet_t set, nvmlEventData_t *out)
{
    char path[PATH_MAX], line[128], uuid[48];
    unsigned xid;
    struct stat log;
    bool found = false;
    sim_events_path(sim_state_path(), path, sizeof path);
    if (stat(path, &log) != 0 || log.st_size == set->position)
        return false;
    if (log.st_size < set->position) /* the log was started anew */
        set->position = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    fseek(file, set->position, SEEK_SET);
    while (!found && fgets(line, sizeof line, file) && strchr(line, '\n')) {
        set->position = ftell(file);
        for (unsigned i = 0; i < set->count && sscanf(line, "%47s %u", uuid, &xid) == 2; i++) {
            if (strcmp(set->devices[i]->uuid, uuid) != 0 || !(set->masks[i] & NVML_EVENT_XID))
                continue;
            *out = (nvmlEventData_t){set->devices[i], NVML_EVENT_XID, xid, NVML_NO_INSTANCE, NVML_NO_INSTANCE};
            found = true;
            break;
        }
    }
    fclose(file);
    return found;
}

/* Looks at the log a few times a second: cheap, and unlike inotify it works over every kind of mount. */
API nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *out, unsigned timeout_ms)
{
    if (!set || !out)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned waited = 0;;) {
        if (next_event(set, out))
            return NVML_SUCCESS;
        if (waited >= timeout_ms)
            return NVML_ERROR_TIMEOUT;
        unsigned step = timeout_ms - waited < EVENT_POLL_MS ? timeout_ms - waited : EVENT_POLL_MS;
        nanosleep(&(struct timespec){.tv_nsec = step * 1000000l}, NULL);
        waited += step;
    }
}
ALIAS(nvmlEventSetWait, nvmlEventSetWait_v2, nvmlEventSet_t set, nvmlEventData_t *out, unsigned timeout_ms);

/* ---- everything else of NVML ---- */

/*
 * A program that is linked lazily against NVML (go-nvml) dies on a missing function, so each one that the
 * simulator has no answer for says "not supported", as a real GPU without that feature does.
 */
#define UNSUPPORTED(name) \
    API name(void) { return NVML_ERROR_NOT_SUPPORTED; }
#include "unsupported.h"
