/*
 * A small nvidia-smi over libnvidia-ml.so.1: `-L` and `--query-gpu=FIELD,… --format=csv,noheader[,nounits]` in the
 * original's words, so that what reads it works on a real driver and on the simulator alike; without arguments
 * one line a GPU for people.
 */
#define _GNU_SOURCE
#include "nvml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1ull << 20)

extern nvmlReturn_t nvmlInit_v2(void);
extern nvmlReturn_t nvmlShutdown(void);
extern const char *nvmlErrorString(nvmlReturn_t);
extern nvmlReturn_t nvmlSystemGetDriverVersion(char *, unsigned);
extern nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *);
extern nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned, nvmlDevice_t *);
extern nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t, char *, unsigned);
extern nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t, char *, unsigned);
extern nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t, nvmlMemory_t *);
extern nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t, nvmlUtilization_t *);
extern nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t, unsigned, unsigned *);
extern nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t, unsigned *);

static int failed(const char *what, nvmlReturn_t result)
{
    fprintf(stderr, "%s: %s\n", what, nvmlErrorString(result));
    return (int)result;
}

static int list_gpus(unsigned count)
{
    int status = 0;
    for (unsigned i = 0; i < count; i++) {
        nvmlDevice_t device;
        char name[96], uuid[96];
        nvmlReturn_t result = nvmlDeviceGetHandleByIndex_v2(i, &device);
        if (result != NVML_SUCCESS) {
            fprintf(stderr, "Unable to determine the device handle for GPU%u: %s\n", i, nvmlErrorString(result));
            status = (int)result;
            continue;
        }
        nvmlDeviceGetName(device, name, sizeof name);
        nvmlDeviceGetUUID(device, uuid, sizeof uuid);
        printf("GPU %u: %s (UUID: %s)\n", i, name, uuid);
    }
    return status;
}

/* Prints one field of a GPU; false for a field that this stand-in does not know. */
static int print_field(unsigned index, nvmlDevice_t device, const char *field, int units)
{
    char word[96] = "[N/A]";
    unsigned value = 0;
    nvmlMemory_t memory = {0};
    nvmlUtilization_t use = {0};
    if (strcmp(field, "index") == 0)
        snprintf(word, sizeof word, "%u", index);
    else if (strcmp(field, "uuid") == 0)
        nvmlDeviceGetUUID(device, word, sizeof word);
    else if (strcmp(field, "name") == 0)
        nvmlDeviceGetName(device, word, sizeof word);
    else if (strcmp(field, "driver_version") == 0)
        nvmlSystemGetDriverVersion(word, sizeof word);
    else if (strcmp(field, "memory.total") == 0 || strcmp(field, "memory.used") == 0) {
        nvmlDeviceGetMemoryInfo(device, &memory);
        snprintf(word, sizeof word, "%llu%s", (field[7] == 't' ? memory.total : memory.used) / MIB,
                 units ? " MiB" : "");
    } else if (strcmp(field, "utilization.gpu") == 0) {
        nvmlDeviceGetUtilizationRates(device, &use);
        snprintf(word, sizeof word, "%u%s", use.gpu, units ? " %" : "");
    } else if (strcmp(field, "temperature.gpu") == 0) {
        nvmlDeviceGetTemperature(device, 0, &value);
        snprintf(word, sizeof word, "%u", value);
    } else if (strcmp(field, "power.draw") == 0) {
        nvmlDeviceGetPowerUsage(device, &value);
        snprintf(word, sizeof word, "%.2f%s", value / 1000.0, units ? " W" : "");
    } else
        return 0;
    fputs(word, stdout);
    return 1;
}

static int query(unsigned count, const char *fields, int units)
{
    for (unsigned i = 0; i < count; i++) {
        nvmlDevice_t device;
        char copy[512], *rest = copy;
        nvmlReturn_t result = nvmlDeviceGetHandleByIndex_v2(i, &device);
        if (result != NVML_SUCCESS)
            return failed("Unable to determine the device handle", result);
        snprintf(copy, sizeof copy, "%s", fields);
        for (char *field; (field = strtok_r(rest, ",", &rest));) {
            if (field != copy)
                fputs(", ", stdout);
            if (!print_field(i, device, field, units)) {
                fprintf(stderr, "\nField \"%s\" is not a valid field to query.\n", field);
                return 2;
            }
        }
        putchar('\n');
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *fields = NULL;
    int list = 0, units = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-L") == 0 || strcmp(argv[i], "--list-gpus") == 0)
            list = 1;
        else if (strncmp(argv[i], "--query-gpu=", 12) == 0)
            fields = argv[i] + 12;
        else if (strncmp(argv[i], "--format=csv,noheader", 21) == 0)
            units = strstr(argv[i], "nounits") == NULL;
        else {
            fprintf(stderr, "Invalid option '%s': this stand-in knows -L and "
                            "--query-gpu=FIELD,… --format=csv,noheader[,nounits]\n", argv[i]);
            return 2;
        }
    }
    if (!list && !fields)
        fields = "index,name,temperature.gpu,power.draw,memory.used,memory.total,utilization.gpu";
    unsigned count;
    nvmlReturn_t result = nvmlInit_v2();
    if (result != NVML_SUCCESS)
        return failed("Failed to initialize NVML", result);
    result = nvmlDeviceGetCount_v2(&count);
    int status = result != NVML_SUCCESS ? failed("Failed to count GPUs", result)
                 : fields                ? query(count, fields, units)
                                         : list_gpus(count);
    nvmlShutdown();
    return status;
}
