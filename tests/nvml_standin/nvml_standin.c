/*
 * A stand-in for libnvidia-ml.so.1: NVML's functions, answering from a text file instead of from a GPU.
 *
 * NVML_STANDIN_STATE names the file. It may be replaced at any time (write another, rename it over this one): each call
 * looks whether it changed. Without it the driver is not loaded. NVML_STANDIN_LOG, if set, names a file to which each
 * call adds a line: microseconds, thread, function, device ("-", "0" or "0:1"), outcome.
 *
 * A line is a setting or an instruction, about everything or, after "gpu N" or "gpu N mig M", about that device alone.
 * Empty lines and lines that begin with # are skipped; a line that makes no sense is skipped with a word on stderr.
 *
 *   driver.version = 570.86.15            also: nvml.version, cuda.version = 12.8
 *   gpu 0 uuid = GPU-...                  a GPU exists by its first setting. nvmlInit fixes the list of GPUs, in the
 *   gpu 0 memory.total = 80G              order of N: one taken out is lost, one put in shows after the next nvmlInit
 *   gpu 0 mig 1 uuid = MIG-...            a MIG instance, reachable while its GPU says mig.mode = 1
 *
 * Numbers are decimal or 0x..., and K M G T multiply by powers of 1024. A setting that is missing or "na" makes the
 * calls that need it answer NOT_SUPPORTED, but for memory.reserved (0) and memory.free (what is neither used nor
 * reserved). The last line on a setting counts. Settings, as NVML has them (bytes, mW, mJ, MHz, %, KB/s):
 *
 *   uuid name serial vbios inforom board.part board.id board.multi_gpu brand architecture cores minor
 *   pci = 00000000:3B:00.0, pci.device_id pci.subsystem_id, cuda.capability = 9.0, compute.mode persistence
 *   display.mode display.active pstate fan fan.count
 *   memory.total memory.used memory.free memory.reserved memory.bus_width bar1.total bar1.used
 *   utilization.gpu .memory .encoder .decoder .jpeg .ofa
 *   power energy power.limit power.limit.default power.limit.min power.limit.max
 *   temperature temperature.shutdown temperature.slowdown temperature.memory_max temperature.gpu_max
 *   clock.graphics .sm .memory .video, each also with .max; clocks.reasons (a bit mask) clocks.reasons.supported
 *   ecc.mode ecc.mode.pending ecc.corrected.volatile .aggregate, ecc.uncorrected.volatile .aggregate
 *   rows.corrected rows.uncorrected rows.pending rows.failure
 *   retired.single_bit = ADDRESS[@TIME] ..., retired.double_bit likewise, retired.pending
 *   pcie.tx pcie.rx pcie.generation pcie.generation.max pcie.width pcie.width.max pcie.replays
 *   nvlink.links (how many are up) nvlink.version
 *   field.ID or field.ID.SCOPE            for nvmlDeviceGetFieldValues; a value with a point is a double
 *   mig.mode mig.mode.pending mig.most    and of an instance: gi ci slices.gpu slices.compute multiprocessors
 *   processes = na                        the process lists are not supported; otherwise they list:
 *
 *   gpu 0 process KIND PID MEMORY [SM MEMORY ENCODER DECODER]
 *                                         KIND compute, graphics or mps; MEMORY in bytes or na; then utilisation in %
 *   gpu 0 event SEQUENCE xid CODE         or event SEQUENCE TYPE DATA. An event set gets the events whose sequence
 *                                         numbers are above all that were there when it was registered, each once
 *   fail FUNCTIONS ERROR                  FUNCTIONS is a shell pattern on the C name: nvmlDeviceGetMemoryInfo*. ERROR
 *                                         ends an NVML_ERROR_ name, or is SUCCESS: an exception to a line above
 *   delay FUNCTIONS MILLISECONDS          or "forever"; ends early when the line goes. Other calls go on meanwhile;
 *   delay FUNCTIONS MILLISECONDS locked   with "locked" they all wait
 *   crash FUNCTIONS                       abort; "crash FUNCTIONS segfault" for the other signal
 *   driver off                            every call answers DRIVER_NOT_LOADED, and after it is on again UNINITIALIZED
 *                                         until the next nvmlInit; so it does after a change of
 *   driver.generation = N                 which is a driver unloaded and loaded between two calls
 *
 * Of fail, delay and crash the last matching line counts. A line about a GPU is about its MIG instances too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nvml_answer.h"

static const struct scope everywhere = {EVERYWHERE, WHOLE_GPU};
static const unsigned int sampling_period_us = 167000;
static const int most_migs_unless_told = 7;

static bool is_mig(nvmlDevice_t device)
{
    return device_scope(device).mig != WHOLE_GPU;
}

static nvmlDevice_t gpu_of(nvmlDevice_t device)
{
    return device_at((struct scope){device_scope(device).gpu, WHOLE_GPU});
}

static nvmlReturn_t wide_number(nvmlDevice_t device, const char *name, unsigned long long *value)
{
    return state_number(device_scope(device), name, value);
}

static nvmlReturn_t two_numbers(nvmlDevice_t device, const char *first_name, unsigned int *first,
                                const char *second_name, unsigned int *second)
{
    if (!first || !second)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t status = number(device, first_name, first);
    return status == NVML_SUCCESS ? number(device, second_name, second) : status;
}

static nvmlReturn_t copy(const char *text, char *buffer, unsigned int length)
{
    if (strlen(text) >= length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

static nvmlReturn_t text_at(struct scope scope, const char *name, char *buffer, unsigned int length)
{
    const char *text;
    nvmlReturn_t status = state_text(scope, name, &text);
    return status == NVML_SUCCESS ? copy(text, buffer, length) : status;
}

/* ---- Library and system ---- */

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    return gate_initialize(__func__);
}

nvmlReturn_t nvmlInit_v2(void)
{
    return gate_initialize(__func__);
}

nvmlReturn_t nvmlInit(void)
{
    return gate_initialize(__func__);
}

nvmlReturn_t nvmlShutdown(void)
{
    return gate_shut_down(__func__);
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    return state_error_name(result);
}

static nvmlReturn_t system_text(const char *function, const char *name, char *buffer, unsigned int length)
{
    nvmlReturn_t status = gate_enter(function);
    if (status == NVML_SUCCESS)
        status = buffer ? text_at(everywhere, name, buffer, length) : NVML_ERROR_INVALID_ARGUMENT;
    return gate_leave(function, NULL, status);
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    return system_text(__func__, "driver.version", version, length);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    return system_text(__func__, "nvml.version", version, length);
}

static nvmlReturn_t version_pair(struct scope scope, const char *name, int *major, int *minor)
{
    const char *text;
    nvmlReturn_t status = state_text(scope, name, &text);
    if (status == NVML_SUCCESS && sscanf(text, "%d.%d", major, minor) != 2)
        status = NVML_ERROR_UNKNOWN;
    return status;
}

static nvmlReturn_t cuda_version(const char *function, int *version)
{
    int major, minor;
    nvmlReturn_t status = gate_enter(function);
    if (status == NVML_SUCCESS)
        status = version ? version_pair(everywhere, "cuda.version", &major, &minor) : NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS)
        *version = major * 1000 + minor * 10;
    return gate_leave(function, NULL, status);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return cuda_version(__func__, version);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    return cuda_version(__func__, version);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    nvmlReturn_t status = gate_enter(__func__);
    if (status == NVML_SUCCESS && !count)
        status = NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS)
        *count = gpus_listed();
    return gate_leave(__func__, NULL, status);
}

/* ---- Handles ---- */

/* Ends a look-up, which began with gate_open: so that faults of the GPU found hold for it too. */
static nvmlReturn_t hand_out(const char *function, int gpu, int mig, nvmlReturn_t otherwise, nvmlDevice_t *device)
{
    nvmlDevice_t found = gpu == EVERYWHERE ? NULL : device_at((struct scope){gpu, mig});
    nvmlReturn_t status = gate_pass(function, found);
    if (status == NVML_SUCCESS && !device)
        status = NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS && !found)
        status = otherwise;
    if (status == NVML_SUCCESS && !state_has((struct scope){gpu, WHOLE_GPU}))
        status = NVML_ERROR_GPU_IS_LOST;
    if (status == NVML_SUCCESS)
        *device = found;
    return gate_leave(function, found, status);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    gate_open();
    return hand_out(__func__, gpu_listed_at(index), WHOLE_GPU, NVML_ERROR_INVALID_ARGUMENT, device);
}

typedef bool matcher(const char *asked, const char *text);

static bool is_same_text(const char *asked, const char *text)
{
    return strcmp(asked, text) == 0;
}

static bool read_pci(const char *text, unsigned int parts[3])
{
    return sscanf(text, "%x:%x:%x", &parts[0], &parts[1], &parts[2]) == 3;
}

/* 0000:3b:00.0 and 00000000:3B:00.0 are the same place. */
static bool is_same_pci(const char *asked, const char *text)
{
    unsigned int a[3], b[3];
    return read_pci(asked, a) && read_pci(text, b) && memcmp(a, b, sizeof a) == 0;
}

static bool has_text(struct scope scope, const char *name, const char *asked, matcher *matches)
{
    const char *text;
    return asked && state_text(scope, name, &text) == NVML_SUCCESS && matches(asked, text);
}

static struct scope find_device(const char *name, const char *asked, matcher *matches)
{
    for (unsigned int index = 0; index < gpus_listed(); index++)
        for (int mig = WHOLE_GPU; mig < MOST_MIGS; mig++) {
            struct scope scope = {gpu_listed_at(index), mig};
            if (has_text(scope, name, asked, matches))
                return scope;
        }
    return everywhere;
}

static nvmlReturn_t handle_by_text(const char *function, const char *name, const char *asked, matcher *matches,
                                   nvmlDevice_t *device)
{
    gate_open();
    struct scope found = find_device(name, asked, matches);
    return hand_out(function, found.gpu, found.mig, NVML_ERROR_NOT_FOUND, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return handle_by_text(__func__, "uuid", uuid, is_same_text, device);
}

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    return handle_by_text(__func__, "serial", serial, is_same_text, device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pciBusId, nvmlDevice_t *device)
{
    return handle_by_text(__func__, "pci", pciBusId, is_same_pci, device);
}

static nvmlReturn_t index_of(nvmlDevice_t device, unsigned int *index)
{
    struct scope scope = device_scope(device);
    *index = (unsigned int)scope.mig;
    if (is_mig(device))
        return NVML_SUCCESS;
    for (*index = 0; *index < gpus_listed(); ++*index)
        if (gpu_listed_at(*index) == scope.gpu)
            return NVML_SUCCESS;
    return NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    ANSWER(device, index, index_of(device, index));
}

/* ---- Identity ---- */

#define ANSWERS_TEXT(function, name)                                                   \
    nvmlReturn_t function(nvmlDevice_t device, char *buffer, unsigned int length)      \
    {                                                                                  \
        ANSWER(device, buffer, text_at(device_scope(device), name, buffer, length));   \
    }

ANSWERS_TEXT(nvmlDeviceGetName, "name")
ANSWERS_TEXT(nvmlDeviceGetUUID, "uuid")
ANSWERS_TEXT(nvmlDeviceGetSerial, "serial")
ANSWERS_TEXT(nvmlDeviceGetVbiosVersion, "vbios")
ANSWERS_TEXT(nvmlDeviceGetBoardPartNumber, "board.part")
ANSWERS_TEXT(nvmlDeviceGetInforomImageVersion, "inforom")

static nvmlReturn_t pci_of(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    const char *text;
    unsigned int parts[3];
    nvmlReturn_t status = state_text(device_scope(device), "pci", &text);
    if (status != NVML_SUCCESS)
        return status;
    if (!read_pci(text, parts))
        return NVML_ERROR_UNKNOWN;
    *pci = (nvmlPciInfo_t){.domain = parts[0], .bus = parts[1], .device = parts[2]};
    pci->pciDeviceId = number_or(device, "pci.device_id", 0);
    pci->pciSubSystemId = number_or(device, "pci.subsystem_id", 0);
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", parts[0], parts[1], parts[2]);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", parts[0] & 0xFFFF, parts[1] & 0xFF,
             parts[2] & 0xFF);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    ANSWER(device, pci, pci_of(device, pci));
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    ANSWER(device, major && minor, version_pair(device_scope(gpu_of(device)), "cuda.capability", major, minor));
}

/* ---- Plain numbers ---- */

#define ANSWERS_NUMBER(function, type, name)                                           \
    nvmlReturn_t function(nvmlDevice_t device, type *value)                            \
    {                                                                                  \
        unsigned long long found = 0;                                                  \
        nvmlReturn_t status = gate_enter_device(__func__, device);                     \
        if (status == NVML_SUCCESS)                                                    \
            status = value ? wide_number(device, name, &found) : NVML_ERROR_INVALID_ARGUMENT; \
        if (status == NVML_SUCCESS)                                                    \
            *value = (type)found;                                                      \
        return gate_leave(__func__, device, status);                                   \
    }

ANSWERS_NUMBER(nvmlDeviceGetMinorNumber, unsigned int, "minor")
ANSWERS_NUMBER(nvmlDeviceGetBoardId, unsigned int, "board.id")
ANSWERS_NUMBER(nvmlDeviceGetMultiGpuBoard, unsigned int, "board.multi_gpu")
ANSWERS_NUMBER(nvmlDeviceGetBrand, nvmlBrandType_t, "brand")
ANSWERS_NUMBER(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t, "architecture")
ANSWERS_NUMBER(nvmlDeviceGetNumGpuCores, unsigned int, "cores")
ANSWERS_NUMBER(nvmlDeviceGetComputeMode, nvmlComputeMode_t, "compute.mode")
ANSWERS_NUMBER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, "persistence")
ANSWERS_NUMBER(nvmlDeviceGetDisplayMode, nvmlEnableState_t, "display.mode")
ANSWERS_NUMBER(nvmlDeviceGetDisplayActive, nvmlEnableState_t, "display.active")
ANSWERS_NUMBER(nvmlDeviceGetMemoryBusWidth, unsigned int, "memory.bus_width")
ANSWERS_NUMBER(nvmlDeviceGetPowerUsage, unsigned int, "power")
ANSWERS_NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, "power.limit")
ANSWERS_NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned int, "power.limit")
ANSWERS_NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, "power.limit.default")
ANSWERS_NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, "energy")
ANSWERS_NUMBER(nvmlDeviceGetFanSpeed, unsigned int, "fan")
ANSWERS_NUMBER(nvmlDeviceGetNumFans, unsigned int, "fan.count")
ANSWERS_NUMBER(nvmlDeviceGetPerformanceState, nvmlPstates_t, "pstate")
ANSWERS_NUMBER(nvmlDeviceGetPowerState, nvmlPstates_t, "pstate")
ANSWERS_NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "clocks.reasons")
ANSWERS_NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "clocks.reasons")
ANSWERS_NUMBER(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, "clocks.reasons.supported")
ANSWERS_NUMBER(nvmlDeviceGetSupportedClocksThrottleReasons, unsigned long long, "clocks.reasons.supported")
ANSWERS_NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, nvmlEnableState_t, "retired.pending")
ANSWERS_NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, "pcie.generation")
ANSWERS_NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, "pcie.generation.max")
ANSWERS_NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, unsigned int, "pcie.generation.max")
ANSWERS_NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, "pcie.width")
ANSWERS_NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, "pcie.width.max")
ANSWERS_NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned int, "pcie.replays")
ANSWERS_NUMBER(nvmlDeviceGetGpuInstanceId, unsigned int, "gi")
ANSWERS_NUMBER(nvmlDeviceGetComputeInstanceId, unsigned int, "ci")

/* ---- Numbers chosen by an argument ---- */

static nvmlReturn_t chosen(nvmlDevice_t device, const char *const names[], unsigned int count, unsigned int choice,
                           unsigned int *value)
{
    return choice < count ? number(device, names[choice], value) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
    static const char *const names[] = {"clock.graphics", "clock.sm", "clock.memory", "clock.video"};
    ANSWER(device, clock, chosen(device, names, 4, type, clock));
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
    static const char *const names[] = {"clock.graphics.max", "clock.sm.max", "clock.memory.max", "clock.video.max"};
    ANSWER(device, clock, chosen(device, names, 4, type, clock));
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, nvmlTemperatureThresholds_t thresholdType,
                                               unsigned int *temp)
{
    static const char *const names[] = {"temperature.shutdown", "temperature.slowdown", "temperature.memory_max",
                                        "temperature.gpu_max"};
    ANSWER(device, temp, chosen(device, names, 4, thresholdType, temp));
}

nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t counter, unsigned int *value)
{
    static const char *const names[] = {"pcie.tx", "pcie.rx"};
    ANSWER(device, value, chosen(device, names, 2, counter, value));
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensorType, unsigned int *temp)
{
    static const char *const names[] = {"temperature"};
    ANSWER(device, temp, chosen(device, names, 1, sensorType, temp));
}

static nvmlReturn_t temperature_of(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
    unsigned int degrees = 0;
    if (temperature->version != nvmlTemperature_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensorType != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t status = number(device, "temperature", &degrees);
    if (status == NVML_SUCCESS)
        temperature->temperature = (int)degrees;
    return status;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
    ANSWER(device, temperature, temperature_of(device, temperature));
}

static nvmlReturn_t fan_of(nvmlDevice_t device, unsigned int fan, unsigned int *speed)
{
    return fan < number_or(device, "fan.count", 1) ? number(device, "fan", speed) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t device, unsigned int fan, unsigned int *speed)
{
    ANSWER(device, speed, fan_of(device, fan, speed));
}

static nvmlReturn_t ecc_count(nvmlDevice_t device, unsigned int type, unsigned int counter, unsigned long long *count)
{
    static const char *const names[2][2] = {{"ecc.corrected.volatile", "ecc.corrected.aggregate"},
                                            {"ecc.uncorrected.volatile", "ecc.uncorrected.aggregate"}};
    return type < 2 && counter < 2 ? wide_number(device, names[type][counter], count) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t errorType,
                                         nvmlEccCounterType_t counterType, unsigned long long *eccCounts)
{
    ANSWER(device, eccCounts, ecc_count(device, errorType, counterType, eccCounts));
}

/* All errors are the device memory's. */
nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t errorType,
                                             nvmlEccCounterType_t counterType, nvmlMemoryLocation_t locationType,
                                             unsigned long long *count)
{
    bool is_counted = locationType == NVML_MEMORY_LOCATION_DEVICE_MEMORY;
    ANSWER(device, count, is_counted ? ecc_count(device, errorType, counterType, count) : NVML_ERROR_NOT_SUPPORTED);
}

/* ---- Several numbers at once ---- */

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
    ANSWER(device, utilization, two_numbers(device, "utilization.gpu", &utilization->gpu, "utilization.memory",
                                            &utilization->memory));
}

#define ANSWERS_SAMPLED(function, name)                                                                       \
    nvmlReturn_t function(nvmlDevice_t device, unsigned int *utilization, unsigned int *samplingPeriodUs)     \
    {                                                                                                         \
        ANSWER(device, utilization && samplingPeriodUs,                                                       \
               (*samplingPeriodUs = sampling_period_us, number(device, name, utilization)));                  \
    }

ANSWERS_SAMPLED(nvmlDeviceGetEncoderUtilization, "utilization.encoder")
ANSWERS_SAMPLED(nvmlDeviceGetDecoderUtilization, "utilization.decoder")
ANSWERS_SAMPLED(nvmlDeviceGetJpgUtilization, "utilization.jpeg")
ANSWERS_SAMPLED(nvmlDeviceGetOfaUtilization, "utilization.ofa")

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *minLimit,
                                                          unsigned int *maxLimit)
{
    ANSWER(device, true, two_numbers(device, "power.limit.min", minLimit, "power.limit.max", maxLimit));
}

static nvmlReturn_t mode_pair(nvmlDevice_t device, const char *name, const char *pending_name, unsigned int *current,
                              unsigned int *pending)
{
    nvmlReturn_t status = number(device, name, current);
    if (status == NVML_SUCCESS)
        *pending = number_or(device, pending_name, *current);
    return status;
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
    unsigned int now = 0, next = 0;
    nvmlReturn_t status = gate_enter_device(__func__, device);
    if (status == NVML_SUCCESS)
        status = current && pending ? mode_pair(device, "ecc.mode", "ecc.mode.pending", &now, &next)
                                    : NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS) {
        *current = (nvmlEnableState_t)now;
        *pending = (nvmlEnableState_t)next;
    }
    return gate_leave(__func__, device, status);
}

static nvmlReturn_t rows_of(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected,
                            unsigned int *pending, unsigned int *failed)
{
    nvmlReturn_t status = two_numbers(device, "rows.corrected", corrected, "rows.uncorrected", uncorrected);
    return status == NVML_SUCCESS ? two_numbers(device, "rows.pending", pending, "rows.failure", failed) : status;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrRows, unsigned int *uncRows,
                                       unsigned int *isPending, unsigned int *failureOccurred)
{
    ANSWER(device, true, rows_of(device, corrRows, uncRows, isPending, failureOccurred));
}

/* ---- Memory ---- */

static nvmlReturn_t memory_of(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    nvmlReturn_t status = wide_number(device, "memory.total", &memory->total);
    if (status == NVML_SUCCESS)
        status = wide_number(device, "memory.used", &memory->used);
    if (status != NVML_SUCCESS)
        return status;
    memory->reserved = 0;
    wide_number(device, "memory.reserved", &memory->reserved);
    unsigned long long taken = memory->used + memory->reserved;
    memory->free = taken < memory->total ? memory->total - taken : 0;
    wide_number(device, "memory.free", &memory->free);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    ANSWER(device, memory, memory->version == nvmlMemory_v2 ? memory_of(device, memory)
                                                            : NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
}

/* The first version knows nothing reserved and counts it as used. */
static nvmlReturn_t memory_v1_of(nvmlDevice_t device, nvmlMemory_t *memory)
{
    nvmlMemory_v2_t found;
    nvmlReturn_t status = memory_of(device, &found);
    if (status == NVML_SUCCESS)
        *memory = (nvmlMemory_t){.total = found.total, .free = found.free, .used = found.used + found.reserved};
    return status;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    ANSWER(device, memory, memory_v1_of(device, memory));
}

static nvmlReturn_t bar1_of(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
    nvmlReturn_t status = wide_number(device, "bar1.total", &memory->bar1Total);
    if (status == NVML_SUCCESS)
        status = wide_number(device, "bar1.used", &memory->bar1Used);
    if (status == NVML_SUCCESS)
        memory->bar1Free = memory->bar1Total - memory->bar1Used;
    return status;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *bar1Memory)
{
    ANSWER(device, bar1Memory, bar1_of(device, bar1Memory));
}

/* ---- Lists: a count too small is answered with the right one ---- */

/* A GPU lists its MIG instances' processes beside its own. */
static bool is_of(const struct process *process, struct scope scope)
{
    return process->scope.gpu == scope.gpu && (scope.mig == WHOLE_GPU || process->scope.mig == scope.mig);
}

static nvmlReturn_t check_room(unsigned int needed, unsigned int *count, const void *array)
{
    unsigned int room = *count;
    *count = needed;
    if (room < needed)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    return needed > 0 && !array ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

static nvmlProcessInfo_t describe_process(const struct process *process)
{
    nvmlDevice_t device = device_at(process->scope);
    return (nvmlProcessInfo_t){
        .pid = process->pid,
        .usedGpuMemory = process->memory,
        .gpuInstanceId = number_or(device, "gi", no_instance),
        .computeInstanceId = number_or(device, "ci", no_instance),
    };
}

static nvmlReturn_t list_processes(nvmlDevice_t device, enum process_kind kind, unsigned int *count,
                                   nvmlProcessInfo_t *infos)
{
    struct scope scope = device_scope(device);
    const struct process *process;
    unsigned int needed = 0;
    if (state_is_na(scope, "processes"))
        return NVML_ERROR_NOT_SUPPORTED;
    for (size_t i = 0; (process = state_process(i)); i++)
        needed += process->kind == kind && is_of(process, scope);
    nvmlReturn_t status = check_room(needed, count, infos);
    for (size_t i = 0; status == NVML_SUCCESS && (process = state_process(i)); i++)
        if (process->kind == kind && is_of(process, scope))
            *infos++ = describe_process(process);
    return status;
}

/* Versions 2 and 3 have one layout under two names. */
#define ANSWERS_PROCESSES(function, type, kind)                                                    \
    nvmlReturn_t function(nvmlDevice_t device, unsigned int *infoCount, type *infos)               \
    {                                                                                              \
        ANSWER(device, infoCount, list_processes(device, kind, infoCount, (nvmlProcessInfo_t *)infos)); \
    }

ANSWERS_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, COMPUTE)
ANSWERS_PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t, COMPUTE)
ANSWERS_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t, GRAPHICS)
ANSWERS_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t, GRAPHICS)
ANSWERS_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, MPS)
ANSWERS_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t, MPS)

static unsigned long long microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000;
}

/* Every sample was taken just now, so lastSeenTimeStamp excludes none. */
static nvmlReturn_t list_utilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples, unsigned int *count)
{
    struct scope scope = device_scope(device);
    const struct process *process;
    unsigned int needed = 0;
    for (size_t i = 0; (process = state_process(i)); i++)
        needed += process->has_utilization && is_of(process, scope);
    if (needed == 0)
        return NVML_ERROR_NOT_FOUND;
    nvmlReturn_t status = check_room(needed, count, samples);
    for (size_t i = 0; status == NVML_SUCCESS && (process = state_process(i)); i++)
        if (process->has_utilization && is_of(process, scope))
            *samples++ = (nvmlProcessUtilizationSample_t){
                process->pid,            microseconds(),          process->utilization[0],
                process->utilization[1], process->utilization[2], process->utilization[3],
            };
    return status;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *utilization,
                                             unsigned int *processSamplesCount, unsigned long long lastSeenTimeStamp)
{
    (void)lastSeenTimeStamp;
    ANSWER(device, processSamplesCount, list_utilization(device, utilization, processSamplesCount));
}

static nvmlReturn_t list_pages(nvmlDevice_t device, unsigned int cause, unsigned int *count,
                               unsigned long long *addresses, unsigned long long *timestamps)
{
    static const char *const names[] = {"retired.single_bit", "retired.double_bit"};
    const char *text;
    struct page page;
    unsigned int needed = 0;
    if (cause >= 2)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t status = state_text(device_scope(device), names[cause], &text);
    if (status != NVML_SUCCESS)
        return status;
    for (const char *rest = text; state_next_page(&rest, &page);)
        needed++;
    status = check_room(needed, count, addresses);
    for (unsigned int i = 0; status == NVML_SUCCESS && i < needed && state_next_page(&text, &page); i++) {
        addresses[i] = page.address;
        if (timestamps)
            timestamps[i] = page.timestamp;
    }
    return status;
}

nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, nvmlPageRetirementCause_t cause, unsigned int *pageCount,
                                       unsigned long long *addresses)
{
    ANSWER(device, pageCount, list_pages(device, cause, pageCount, addresses, NULL));
}

/* nvidia-ml-py asks for the size with one argument less: timestamps is not to be looked at before there is room. */
nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, nvmlPageRetirementCause_t cause,
                                          unsigned int *pageCount, unsigned long long *addresses,
                                          unsigned long long *timestamps)
{
    ANSWER(device, pageCount, list_pages(device, cause, pageCount, addresses, addresses ? timestamps : NULL));
}

/* ---- Field values and links ---- */

static nvmlReturn_t find_field(struct scope scope, const nvmlFieldValue_t *field, const char **text)
{
    char name[40];
    snprintf(name, sizeof name, "field.%u.%u", field->fieldId, field->scopeId);
    if (state_text(scope, name, text) == NVML_SUCCESS)
        return NVML_SUCCESS;
    snprintf(name, sizeof name, "field.%u", field->fieldId);
    return state_text(scope, name, text);
}

static void fill_field(struct scope scope, nvmlFieldValue_t *field)
{
    const char *text;
    field->timestamp = (long long)microseconds();
    field->latencyUsec = 0;
    field->nvmlReturn = find_field(scope, field, &text);
    if (field->nvmlReturn != NVML_SUCCESS)
        return;
    field->valueType = strchr(text, '.') ? NVML_VALUE_TYPE_DOUBLE : NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
    if (field->valueType == NVML_VALUE_TYPE_DOUBLE)
        field->value.dVal = strtod(text, NULL);
    else
        field->value.ullVal = strtoull(text, NULL, 0);
}

static nvmlReturn_t fill_fields(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    for (int i = 0; i < count; i++)
        fill_field(device_scope(device), &values[i]);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int valuesCount, nvmlFieldValue_t *values)
{
    ANSWER(device, values && valuesCount > 0, fill_fields(device, valuesCount, values));
}

static nvmlReturn_t link_is_up(nvmlDevice_t device, unsigned int link, unsigned int *is_up)
{
    unsigned int up;
    nvmlReturn_t status = number(device, "nvlink.links", &up);
    if (status == NVML_SUCCESS)
        *is_up = link < up;
    return link < NVML_NVLINK_MAX_LINKS ? status : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *isActive)
{
    unsigned int is_up = 0;
    nvmlReturn_t status = gate_enter_device(__func__, device);
    if (status == NVML_SUCCESS)
        status = isActive ? link_is_up(device, link, &is_up) : NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS)
        *isActive = (nvmlEnableState_t)is_up;
    return gate_leave(__func__, device, status);
}

nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned int link, unsigned int *version)
{
    static const char *const names[] = {"nvlink.version"};
    ANSWER(device, version, chosen(device, names, 1, link < NVML_NVLINK_MAX_LINKS ? 0 : 1, version));
}

/* ---- MIG ---- */

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *currentMode, unsigned int *pendingMode)
{
    ANSWER(device, currentMode && pendingMode,
           mode_pair(device, "mig.mode", "mig.mode.pending", currentMode, pendingMode));
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *isMigDevice)
{
    ANSWER(device, isMigDevice, (*isMigDevice = is_mig(device), NVML_SUCCESS));
}

/* None where MIG is off or unknown. */
static unsigned int most_migs(nvmlDevice_t device)
{
    return number_or(device, "mig.mode", 0) ? number_or(device, "mig.most", most_migs_unless_told) : 0;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    ANSWER(device, count, (*count = most_migs(device), NVML_SUCCESS));
}

static nvmlReturn_t mig_at(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig)
{
    struct scope scope = {device_scope(device).gpu, (int)index};
    unsigned int mode;
    if (number(device, "mig.mode", &mode) != NVML_SUCCESS)
        return NVML_ERROR_NOT_SUPPORTED;
    if (is_mig(device) || index >= MOST_MIGS || (mode && index >= most_migs(device)))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!mode || !state_has(scope))
        return NVML_ERROR_NOT_FOUND;
    *mig = device_at(scope);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *migDevice)
{
    ANSWER(device, migDevice, mig_at(device, index, migDevice));
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t migDevice, nvmlDevice_t *device)
{
    ANSWER(migDevice, device && is_mig(migDevice), (*device = gpu_of(migDevice), NVML_SUCCESS));
}

static nvmlReturn_t attributes_of(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    unsigned long long bytes = 0;
    *attributes = (nvmlDeviceAttributes_t){0};
    nvmlReturn_t status = two_numbers(device, "slices.gpu", &attributes->gpuInstanceSliceCount, "slices.compute",
                                      &attributes->computeInstanceSliceCount);
    if (status == NVML_SUCCESS)
        status = wide_number(device, "memory.total", &bytes);
    attributes->multiprocessorCount = number_or(device, "multiprocessors", 0);
    attributes->memorySizeMB = bytes >> 20;
    return status;
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    ANSWER(device, attributes, attributes_of(device, attributes));
}
