/* gpu-simulator: makes, shows and changes the simulated GPUs of this node; see usage() and state.h. */
#define _GNU_SOURCE
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NVIDIA_MAJOR 195
#define NVIDIA_CTL_MINOR 255

enum { EXIT_OURS = 1, EXIT_USAGE = 2, EXIT_NOT_FOUND = 4 };

static struct sim_state state;
static char error[SIM_ERROR_SIZE];

static void usage(FILE *out)
{
    fputs("Usage: gpu-simulator COMMAND\n"
          "\n"
          "  init [--count N] [--name NAME] [--memory-mib MIB]\n"
          "                        make this node's GPUs; those that exist keep their UUIDs and readings\n"
          "  list                  show them, with readings and faults\n"
          "  set GPU KEY=VALUE…    change readings, e.g. utilization=90 temperature=80 processes=\"123:4096\"\n"
          "  xid GPU CODE          report a fault (Xid) to whoever listens, such as the device plugin\n"
          "  lost GPU              let it fall off the bus: Xid 79, and every reading fails\n"
          "  heal GPU|all          end its faults (who saw one must be restarted, as after a real reset)\n"
          "  nodes                 make /dev/nvidia*, as the driver does when it is loaded (root)\n"
          "\n"
          "GPU is an index or a UUID. The state is /etc/gpu-simulator/devices.conf, or $GPU_SIMULATOR_STATE.\n",
          out);
}

__attribute__((noreturn, format(printf, 2, 3))) static void die(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("gpu-simulator: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(code);
}

/* One writer at a time; the lock goes with the process. */
static void lock_state(void)
{
    char path[PATH_MAX], *slash;
    snprintf(path, sizeof path, "%s", sim_state_path());
    slash = strrchr(path, '/');
    if (slash) {
        *slash = '\0';
        if (*path && mkdir(path, 0755) != 0 && errno != EEXIST)
            die(EXIT_OURS, "%s: %s", path, strerror(errno));
    }
    snprintf(path, sizeof path, "%s.lock", sim_state_path());
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || flock(fd, LOCK_EX) != 0)
        die(EXIT_OURS, "%s: %s", path, strerror(errno));
}

static void load(void)
{
    if (access(sim_state_path(), F_OK) != 0)
        die(EXIT_NOT_FOUND, "%s: not there; make this node's GPUs with `gpu-simulator init --count N`",
            sim_state_path());
    if (!sim_load(sim_state_path(), &state, error))
        die(EXIT_OURS, "%s", error);
}

static void save(void)
{
    if (!sim_save(sim_state_path(), &state, error))
        die(EXIT_USAGE, "%s", error);
}

static unsigned number(const char *what, const char *text, unsigned long max)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value > max)
        die(EXIT_USAGE, "%s: expected a whole number from 0 to %lu, got '%s'", what, max, text);
    return (unsigned)value;
}

static struct sim_gpu *find_gpu(const char *which)
{
    char *end;
    unsigned long index = strtoul(which, &end, 10);
    for (unsigned i = 0; i < state.gpu_count; i++)
        if (strcmp(state.gpus[i].uuid, which) == 0 || (end != which && !*end && index == i))
            return &state.gpus[i];
    die(EXIT_NOT_FOUND, "no GPU '%s'; this node has %u, see `gpu-simulator list`", which, state.gpu_count);
}

static void init(int count_given, char **arguments)
{
    unsigned count = 4, memory = SIM_DEFAULT_MEMORY_MIB;
    const char *name = SIM_DEFAULT_NAME;
    for (int i = 0; i < count_given; i += 2) {
        const char *option = arguments[i], *value = i + 1 < count_given ? arguments[i + 1] : NULL;
        if (!value)
            die(EXIT_USAGE, "init: %s needs a value", option);
        if (strcmp(option, "--count") == 0)
            count = number("--count", value, SIM_MAX_GPUS);
        else if (strcmp(option, "--name") == 0)
            name = value;
        else if (strcmp(option, "--memory-mib") == 0)
            memory = number("--memory-mib", value, 1048576);
        else
            die(EXIT_USAGE, "init: unknown option '%s'; known: --count --name --memory-mib", option);
    }
    lock_state();
    bool existed = access(sim_state_path(), F_OK) == 0;
    if (existed)
        load();
    else
        snprintf(state.driver, sizeof state.driver, "%s", SIM_DRIVER_VERSION);
    struct sim_state before = state;
    for (unsigned i = 0; i < count; i++) {
        if (i >= state.gpu_count) {
            sim_gpu_defaults(&state.gpus[i], i);
            if (!sim_new_uuid(state.gpus[i].uuid, sizeof state.gpus[i].uuid))
                die(EXIT_OURS, "no random bytes for a UUID: %s", strerror(errno));
        }
        if (!sim_set(&state.gpus[i], "name", name, error))
            die(EXIT_USAGE, "--name: %s", error);
        state.gpus[i].memory_total_mib = memory;
    }
    state.gpu_count = count;
    bool same = existed && before.gpu_count == count;
    for (unsigned i = 0; same && i < count; i++)
        same = strcmp(before.gpus[i].name, name) == 0 && before.gpus[i].memory_total_mib == memory;
    if (!same)
        save();
    printf("%s: %u GPUs in %s\n", !existed ? "created" : same ? "unchanged" : "updated", count, sim_state_path());
}

static void list(void)
{
    load();
    for (unsigned i = 0; i < state.gpu_count; i++) {
        const struct sim_gpu *gpu = &state.gpus[i];
        printf("%u  %s  %s  %llu/%llu MiB  %u%%  %u C  %u W  %u processes  ", i, gpu->uuid, gpu->name,
               gpu->memory_used_mib, gpu->memory_total_mib, gpu->utilization, gpu->temperature,
               gpu->power_watts, gpu->process_count);
        if (gpu->lost)
            puts("lost");
        else if (gpu->xid)
            printf("xid %u\n", gpu->xid);
        else
            puts("healthy");
    }
}

static void set(const char *which, int count, char **pairs)
{
    lock_state();
    load();
    struct sim_gpu *gpu = find_gpu(which);
    for (int i = 0; i < count; i++) {
        char *equals = strchr(pairs[i], '=');
        if (!equals)
            die(EXIT_USAGE, "set: expected KEY=VALUE, got '%s'", pairs[i]);
        *equals = '\0';
        if (!sim_set(gpu, pairs[i], equals + 1, error))
            die(EXIT_USAGE, "set: %s", error);
    }
    save();
}

static void fault(const char *which, unsigned xid, bool lost)
{
    lock_state();
    load();
    struct sim_gpu *gpu = find_gpu(which);
    gpu->xid = xid;
    gpu->lost |= lost;
    save();
    if (!sim_append_event(sim_state_path(), gpu->uuid, xid, error))
        die(EXIT_OURS, "%s", error);
}

static void heal(const char *which)
{
    lock_state();
    load();
    struct sim_gpu *only = strcmp(which, "all") == 0 ? NULL : find_gpu(which);
    for (unsigned i = 0; i < state.gpu_count; i++) {
        if (only && only != &state.gpus[i])
            continue;
        state.gpus[i].xid = 0;
        state.gpus[i].lost = false;
    }
    save();
}

static void make_node(const char *path, unsigned minor)
{
    struct stat now;
    dev_t device = makedev(NVIDIA_MAJOR, minor);
    if (lstat(path, &now) == 0) {
        if (S_ISCHR(now.st_mode) && now.st_rdev == device)
            return;
        die(EXIT_OURS, "%s: exists and is not the character device %d:%u", path, NVIDIA_MAJOR, minor);
    }
    if (mknod(path, S_IFCHR, device) != 0 || chmod(path, 0666) != 0)
        die(EXIT_OURS, "%s: %s", path, strerror(errno));
    printf("made %s\n", path);
}

static void nodes(void)
{
    char path[64];
    glob_t present;
    load();
    make_node("/dev/nvidiactl", NVIDIA_CTL_MINOR);
    for (unsigned i = 0; i < state.gpu_count; i++) {
        snprintf(path, sizeof path, "/dev/nvidia%u", state.gpus[i].minor);
        make_node(path, state.gpus[i].minor);
    }
    if (glob("/dev/nvidia[0-9]*", 0, NULL, &present) != 0)
        return;
    for (size_t n = 0; n < present.gl_pathc; n++) {
        unsigned long minor = strtoul(present.gl_pathv[n] + strlen("/dev/nvidia"), NULL, 10);
        bool known = false;
        for (unsigned i = 0; i < state.gpu_count; i++)
            known |= state.gpus[i].minor == minor;
        if (!known && unlink(present.gl_pathv[n]) == 0)
            printf("removed %s\n", present.gl_pathv[n]);
    }
    globfree(&present);
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    int rest = argc - 2;
    if (strcmp(command, "init") == 0)
        init(rest, argv + 2);
    else if (strcmp(command, "list") == 0 && rest == 0)
        list();
    else if (strcmp(command, "set") == 0 && rest >= 2)
        set(argv[2], rest - 1, argv + 3);
    else if (strcmp(command, "xid") == 0 && rest == 2)
        fault(argv[2], number("xid", argv[3], 999), false);
    else if (strcmp(command, "lost") == 0 && rest == 1)
        fault(argv[2], 79, true);
    else if (strcmp(command, "heal") == 0 && rest == 1)
        heal(argv[2]);
    else if (strcmp(command, "nodes") == 0 && rest == 0)
        nodes();
    else if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0 || strcmp(command, "help") == 0)
        usage(stdout);
    else {
        usage(stderr);
        return EXIT_USAGE;
    }
    return 0;
}
