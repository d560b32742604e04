/*
 * The simulated GPUs of one node, as a file that people and tests can read and write.
 *
 * The file (default /etc/gpu-simulator/devices.conf, or $GPU_SIMULATOR_STATE) has a `driver` line and one
 * `[gpu N]` section a device, with `key = value` lines; sim_keys[] in state.c says which keys there are.
 * It is always replaced whole (rename), so a reader never sees half of it: mount its folder into a
 * container, not the file.
 *
 * Faults are also events: each one is appended as `UUID XID` to `<state file>.events`, from where the NVML
 * library hands it to whoever waits in nvmlEventSetWait.
 */
#ifndef GPU_SIMULATOR_STATE_H
#define GPU_SIMULATOR_STATE_H

#include <stdbool.h>
#include <stddef.h>

#define SIM_DEFAULT_STATE "/etc/gpu-simulator/devices.conf"
#define SIM_DEFAULT_NAME "NVIDIA H100 80GB HBM3 (simulated)"
#define SIM_DEFAULT_MEMORY_MIB 81559
#define SIM_MAX_GPUS 16
#define SIM_MAX_PROCESSES 16
#define SIM_ERROR_SIZE 512

struct sim_process {
    unsigned pid;
    unsigned long long memory_mib;
};

struct sim_gpu {
    char uuid[48];
    char name[96];
    unsigned minor;
    unsigned long long memory_total_mib;
    unsigned long long memory_used_mib;
    unsigned utilization;        /* percent of time with a kernel running */
    unsigned memory_utilization; /* percent of time reading or writing memory */
    unsigned temperature;        /* degrees Celsius */
    unsigned power_watts;
    unsigned power_limit_watts;
    unsigned sm_clock_mhz;
    unsigned memory_clock_mhz;
    unsigned xid; /* the last fault, 0 = healthy */
    bool lost;    /* fallen off the bus: every reading fails */
    unsigned process_count;
    struct sim_process processes[SIM_MAX_PROCESSES];
};

struct sim_state {
    char driver[32];
    unsigned gpu_count;
    struct sim_gpu gpus[SIM_MAX_GPUS];
};

/* The state file's path: $GPU_SIMULATOR_STATE or the default. */
const char *sim_state_path(void);

/* The path of the event log that belongs to a state file. */
void sim_events_path(const char *state_path, char *out, size_t size);

/* Defaults for GPU number `index`: idle and healthy, without a UUID. */
void sim_gpu_defaults(struct sim_gpu *gpu, unsigned index);

/* A fresh random GPU UUID. False when the system gives no random bytes. */
bool sim_new_uuid(char *out, size_t size);

/* Sets one key of a GPU from text. On a bad key or value: false, with one line in `error`. */
bool sim_set(struct sim_gpu *gpu, const char *key, const char *value, char *error);

/* Reads the state file. On failure: false, with one line saying where and what in `error`. */
bool sim_load(const char *path, struct sim_state *state, char *error);

/* Replaces the state file. */
bool sim_save(const char *path, const struct sim_state *state, char *error);

/* Appends a fault to the event log. */
bool sim_append_event(const char *state_path, const char *uuid, unsigned xid, char *error);

#endif
