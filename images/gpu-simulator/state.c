/* Reading, checking and writing of the simulator's state file; see state.h. */
#define _GNU_SOURCE
#include "state.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind { KIND_TEXT, KIND_UNSIGNED, KIND_WIDE, KIND_FLAG, KIND_PROCESSES };

static const struct sim_key {
    const char *name;
    enum kind kind;
    size_t offset;
    size_t size;             /* of a text */
    unsigned long long max;  /* of a number */
} sim_keys[] = {
#define TEXT(field) {#field, KIND_TEXT, offsetof(struct sim_gpu, field), sizeof(((struct sim_gpu *)0)->field), 0}
#define NUMBER(field, max) {#field, KIND_UNSIGNED, offsetof(struct sim_gpu, field), 0, max}
#define WIDE(field, max) {#field, KIND_WIDE, offsetof(struct sim_gpu, field), 0, max}
    TEXT(uuid),
    TEXT(name),
    NUMBER(minor, 254),
    WIDE(memory_total_mib, 1048576),
    WIDE(memory_used_mib, 1048576),
    NUMBER(utilization, 100),
    NUMBER(memory_utilization, 100),
    NUMBER(temperature, 150),
    NUMBER(power_watts, 2000),
    NUMBER(power_limit_watts, 2000),
    NUMBER(sm_clock_mhz, 10000),
    NUMBER(memory_clock_mhz, 20000),
    NUMBER(xid, 999),
    {"lost", KIND_FLAG, offsetof(struct sim_gpu, lost), 0, 0},
    {"processes", KIND_PROCESSES, 0, 0, 0},
};
static const size_t sim_key_count = sizeof(sim_keys) / sizeof(sim_keys[0]);

__attribute__((format(printf, 2, 3))) static bool fail(char *error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, SIM_ERROR_SIZE, format, arguments);
    va_end(arguments);
    return false;
}

const char *sim_state_path(void)
{
    const char *path = getenv("GPU_SIMULATOR_STATE");
    return path && *path ? path : SIM_DEFAULT_STATE;
}

void sim_events_path(const char *state_path, char *out, size_t size)
{
    snprintf(out, size, "%s.events", state_path);
}

void sim_gpu_defaults(struct sim_gpu *gpu, unsigned index)
{
    *gpu = (struct sim_gpu){
        .name = SIM_DEFAULT_NAME,
        .minor = index,
        .memory_total_mib = SIM_DEFAULT_MEMORY_MIB,
        .temperature = 34,
        .power_watts = 70,
        .power_limit_watts = 700,
        .sm_clock_mhz = 1980,
        .memory_clock_mhz = 2619,
    };
}

bool sim_new_uuid(char *out, size_t size)
{
    unsigned char b[16];
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b)
        return false;
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    snprintf(out, size, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return true;
}

static bool is_uuid(const char *text)
{
    const char *shape = "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    if (strlen(text) != strlen(shape))
        return false;
    for (; *shape; shape++, text++)
        if (*shape == 'x' ? !isxdigit((unsigned char)*text) : *shape != *text)
            return false;
    return true;
}

static bool parse_number(const char *text, unsigned long long max, unsigned long long *out)
{
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || value > max)
        return false;
    *out = value;
    return true;
}

/* `PID:MIB PID:MIB …`; an empty value means no process. */
static bool set_processes(struct sim_gpu *gpu, const char *value, char *error)
{
    char copy[512];
    if (strlen(value) >= sizeof copy)
        return fail(error, "processes: longer than %zu characters", sizeof copy - 1);
    strcpy(copy, value);
    unsigned count = 0;
    struct sim_process processes[SIM_MAX_PROCESSES];
    char *rest = copy;
    for (char *word; (word = strtok_r(rest, " ,", &rest));) {
        char *colon = strchr(word, ':');
        unsigned long long pid, memory;
        if (colon)
            *colon = '\0';
        if (!colon || !parse_number(word, INT_MAX, &pid) || !parse_number(colon + 1, 1048576, &memory))
            return fail(error, "processes: expected PID:MIB [PID:MIB …], got '%s'", value);
        if (count == SIM_MAX_PROCESSES)
            return fail(error, "processes: at most %d", SIM_MAX_PROCESSES);
        processes[count++] = (struct sim_process){(unsigned)pid, memory};
    }
    memcpy(gpu->processes, processes, sizeof processes[0] * count);
    gpu->process_count = count;
    return true;
}

bool sim_set(struct sim_gpu *gpu, const char *key, const char *value, char *error)
{
    for (size_t i = 0; i < sim_key_count; i++) {
        const struct sim_key *k = &sim_keys[i];
        if (strcmp(k->name, key) != 0)
            continue;
        char *field = (char *)gpu + k->offset;
        unsigned long long number;
        switch (k->kind) {
        case KIND_TEXT:
            if (!*value || strlen(value) >= k->size || strpbrk(value, "\n\r"))
                return fail(error, "%s: expected 1 to %zu characters on one line", key, k->size - 1);
            if (strcmp(key, "uuid") == 0 && !is_uuid(value))
                return fail(error, "uuid: expected GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, got '%s'", value);
            strcpy(field, value);
            return true;
        case KIND_UNSIGNED:
        case KIND_WIDE:
            if (!parse_number(value, k->max, &number))
                return fail(error, "%s: expected a whole number from 0 to %llu, got '%s'", key, k->max, value);
            if (k->kind == KIND_WIDE)
                *(unsigned long long *)(void *)field = number;
            else
                *(unsigned *)(void *)field = (unsigned)number;
            return true;
        case KIND_FLAG:
            if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
                return fail(error, "%s: expected yes or no, got '%s'", key, value);
            *(bool *)field = *value == 'y';
            return true;
        case KIND_PROCESSES:
            return set_processes(gpu, value, error);
        }
    }
    int used = snprintf(error, SIM_ERROR_SIZE, "unknown key '%s'; known:", key);
    for (size_t i = 0; i < sim_key_count; i++)
        used += snprintf(error + used, SIM_ERROR_SIZE - (size_t)used, " %s", sim_keys[i].name);
    return false;
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return text;
}

static bool parse_line(struct sim_state *state, char *line, char *error)
{
    unsigned index;
    int consumed = 0;
    if (!*line || *line == '#')
        return true;
    if (*line == '[') {
        if (sscanf(line, "[gpu %u]%n", &index, &consumed) != 1 || line[consumed] || !consumed)
            return fail(error, "expected [gpu N], got '%s'", line);
        if (index != state->gpu_count || index >= SIM_MAX_GPUS)
            return fail(error, "sections must count up from [gpu 0] to at most [gpu %d], got '%s'",
                        SIM_MAX_GPUS - 1, line);
        sim_gpu_defaults(&state->gpus[state->gpu_count++], index);
        return true;
    }
    char *equals = strchr(line, '=');
    if (!equals)
        return fail(error, "expected key = value, got '%s'", line);
    *equals = '\0';
    char *key = trim(line), *value = trim(equals + 1);
    if (state->gpu_count)
        return sim_set(&state->gpus[state->gpu_count - 1], key, value, error);
    if (strcmp(key, "driver") != 0)
        return fail(error, "expected driver = VERSION before the first section, got '%s'", key);
    if (!*value || strlen(value) >= sizeof state->driver)
        return fail(error, "driver: expected a version such as %s, got '%s'", SIM_DRIVER_VERSION, value);
    strcpy(state->driver, value);
    return true;
}

static bool check(const struct sim_state *state, char *error)
{
    for (unsigned i = 0; i < state->gpu_count; i++) {
        const struct sim_gpu *gpu = &state->gpus[i];
        if (!*gpu->uuid)
            return fail(error, "[gpu %u] has no uuid", i);
        if (gpu->memory_used_mib > gpu->memory_total_mib)
            return fail(error, "[gpu %u] memory_used_mib %llu is more than memory_total_mib %llu", i,
                        gpu->memory_used_mib, gpu->memory_total_mib);
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(gpu->uuid, state->gpus[j].uuid) == 0)
                return fail(error, "[gpu %u] and [gpu %u] have the same uuid %s", j, i, gpu->uuid);
            if (gpu->minor == state->gpus[j].minor)
                return fail(error, "[gpu %u] and [gpu %u] have the same minor %u", j, i, gpu->minor);
        }
    }
    return true;
}

bool sim_load(const char *path, struct sim_state *state, char *error)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return fail(error, "%s: %s", path, strerror(errno));
    *state = (struct sim_state){.driver = SIM_DRIVER_VERSION};
    char line[1024], why[SIM_ERROR_SIZE];
    bool good = true;
    for (unsigned number = 1; good && fgets(line, sizeof line, file); number++) {
        good = parse_line(state, trim(line), why);
        if (!good)
            snprintf(error, SIM_ERROR_SIZE, "%.180s: line %u: %.300s", path, number, why);
    }
    fclose(file);
    if (good && !check(state, why))
        good = fail(error, "%.180s: %.300s", path, why);
    return good;
}

static void print_gpu(FILE *file, const struct sim_gpu *gpu, unsigned index)
{
    fprintf(file, "\n[gpu %u]\n", index);
    for (size_t i = 0; i < sim_key_count; i++) {
        const char *field = (const char *)gpu + sim_keys[i].offset;
        fprintf(file, "%s = ", sim_keys[i].name);
        switch (sim_keys[i].kind) {
        case KIND_TEXT:
            fputs(field, file);
            break;
        case KIND_UNSIGNED:
            fprintf(file, "%u", *(const unsigned *)(const void *)field);
            break;
        case KIND_WIDE:
            fprintf(file, "%llu", *(const unsigned long long *)(const void *)field);
            break;
        case KIND_FLAG:
            fputs(*(const bool *)field ? "yes" : "no", file);
            break;
        case KIND_PROCESSES:
            for (unsigned p = 0; p < gpu->process_count; p++)
                fprintf(file, "%s%u:%llu", p ? " " : "", gpu->processes[p].pid, gpu->processes[p].memory_mib);
            break;
        }
        fputc('\n', file);
    }
}

bool sim_save(const char *path, const struct sim_state *state, char *error)
{
    char why[SIM_ERROR_SIZE], temporary[PATH_MAX];
    if (!check(state, why))
        return fail(error, "%s", why);
    if (snprintf(temporary, sizeof temporary, "%s.new", path) >= (int)sizeof temporary)
        return fail(error, "%.180s: path too long", path);
    FILE *file = fopen(temporary, "we");
    if (!file)
        return fail(error, "%s: %s", temporary, strerror(errno));
    fprintf(file, "# Simulated GPUs of this node. Change with `gpu-simulator`, or by hand (replace the file whole).\n"
                  "driver = %s\n", state->driver);
    for (unsigned i = 0; i < state->gpu_count; i++)
        print_gpu(file, &state->gpus[i], i);
    bool written = !ferror(file) && fflush(file) == 0 && fchmod(fileno(file), 0644) == 0;
    written = fclose(file) == 0 && written;
    if (!written || rename(temporary, path) != 0) {
        fail(error, "%s: %s", path, strerror(errno));
        unlink(temporary);
        return false;
    }
    return true;
}

bool sim_append_event(const char *state_path, const char *uuid, unsigned xid, char *error)
{
    char path[PATH_MAX], line[96];
    sim_events_path(state_path, path, sizeof path);
    int length = snprintf(line, sizeof line, "%s %u\n", uuid, xid);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return fail(error, "%s: %s", path, strerror(errno));
    bool written = write(fd, line, (size_t)length) == length;
    int reason = errno;
    close(fd);
    return written || fail(error, "%s: %s", path, strerror(reason));
}
