/* What every call passes through: one lock, the state file, faults, the initialisation count and the log. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "nvml_state.h"

static const struct scope everywhere = {EVERYWHERE, WHOLE_GPU};
static const struct timespec nap = {.tv_nsec = 2000000};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool has_been_called;
static int log_file = -1;

static unsigned int initializations;
static unsigned long long generation; /* of the driver that was initialised */
static int listed[MOST_GPUS];         /* the GPUs that were there then; the driver lists no others until the next */
static unsigned int listed_count;

/* A handle is the address of its GPU's or MIG instance's place here; there is nothing behind it. */
static struct nvmlDevice_st {
    char place;
} handles[MOST_GPUS][1 + MOST_MIGS];

bool device_is_ours(const void *device)
{
    uintptr_t address = (uintptr_t)device, first = (uintptr_t)handles;
    return address >= first && address < first + sizeof handles;
}

nvmlDevice_t device_at(struct scope scope)
{
    return &handles[scope.gpu][1 + scope.mig];
}

struct scope device_scope(nvmlDevice_t device)
{
    if (!device_is_ours(device))
        return everywhere;
    int place = (int)(device - &handles[0][0]);
    return (struct scope){place / (1 + MOST_MIGS), place % (1 + MOST_MIGS) - 1};
}

unsigned int gpus_listed(void)
{
    return listed_count;
}

int gpu_listed_at(unsigned int index)
{
    return index < listed_count ? listed[index] : EVERYWHERE;
}

static void list_gpus(void)
{
    listed_count = 0;
    for (int gpu = 0; gpu < MOST_GPUS; gpu++)
        if (state_has((struct scope){gpu, WHOLE_GPU}))
            listed[listed_count++] = gpu;
}

unsigned long long gate_microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000;
}

static void write_log(const char *function, struct scope scope, const char *outcome)
{
    char where[32] = "-";
    if (log_file < 0)
        return;
    if (scope.mig != WHOLE_GPU)
        snprintf(where, sizeof where, "%d:%d", scope.gpu, scope.mig);
    else if (scope.gpu != EVERYWHERE)
        snprintf(where, sizeof where, "%d", scope.gpu);
    dprintf(log_file, "%llu %d %s %s %s\n", gate_microseconds(), (int)gettid(), function, where, outcome);
}

static void read_environment(void)
{
    const char *log = getenv("NVML_STANDIN_LOG");
    if (log_file >= 0)
        close(log_file);
    log_file = log ? open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    state_choose_file();
    has_been_called = true;
}

static void forget_initializations(void)
{
    initializations = 0;
    events_forget();
}

/* An unloaded or reloaded driver knows nothing of what was initialised before. */
static void look_at_state(void)
{
    state_refresh();
    if (initializations > 0 && (!state_driver_is_loaded() || state_driver_generation() != generation))
        forget_initializations();
}

void gate_open(void)
{
    pthread_mutex_lock(&lock);
    if (!has_been_called)
        read_environment();
    look_at_state();
}

static void nap_with_lock(void)
{
    nanosleep(&nap, NULL);
    look_at_state();
}

void gate_nap(void)
{
    pthread_mutex_unlock(&lock);
    nanosleep(&nap, NULL);
    pthread_mutex_lock(&lock);
    look_at_state();
}

/* Looks at the state again and again while it waits, so that taking the line out lets the call go on. */
static void wait_out_delay(const char *function, struct scope scope)
{
    unsigned long long start = gate_microseconds();
    const struct rule *rule = state_rule(DELAY, function, scope);
    if (rule)
        write_log(function, scope, "delayed");
    while (rule && gate_microseconds() - start < rule->milliseconds * 1000ULL) {
        if (rule->keeps_lock)
            nap_with_lock();
        else
            gate_nap();
        rule = state_rule(DELAY, function, scope); /* the one before may have gone with its state */
    }
}

static void crash_where_told(const char *function, struct scope scope)
{
    const struct rule *rule = state_rule(CRASH, function, scope);
    if (!rule)
        return;
    write_log(function, scope, "crashed");
    if (rule->signal == SIGSEGV) {
        /* As a driver's bug would: a handler sees it, and whatever it does the same access comes again. */
        volatile int *volatile nowhere = NULL;
        for (;;)
            *nowhere = 0;
    }
    signal(rule->signal, SIG_DFL); /* no handler may save the process */
    raise(rule->signal);
}

nvmlReturn_t gate_failure(const char *function, struct scope scope)
{
    const struct rule *rule = state_rule(FAIL, function, scope);
    return rule ? rule->status : NVML_SUCCESS;
}

static nvmlReturn_t pass_driver(const char *function, struct scope scope)
{
    crash_where_told(function, scope);
    wait_out_delay(function, scope);
    return state_driver_is_loaded() ? NVML_SUCCESS : NVML_ERROR_DRIVER_NOT_LOADED;
}

/* The rest of gate_enter once the lock is held: for calls that must find out first which device they are about. */
nvmlReturn_t gate_pass(const char *function, nvmlDevice_t device)
{
    struct scope scope = device_scope(device);
    nvmlReturn_t status = pass_driver(function, scope);
    if (status != NVML_SUCCESS)
        return status;
    return initializations == 0 ? NVML_ERROR_UNINITIALIZED : gate_failure(function, scope);
}

nvmlReturn_t gate_enter(const char *function)
{
    gate_open();
    return gate_pass(function, NULL);
}

nvmlReturn_t gate_enter_device(const char *function, nvmlDevice_t device)
{
    gate_open();
    nvmlReturn_t status = gate_pass(function, device);
    if (status != NVML_SUCCESS)
        return status;
    if (!device_is_ours(device))
        return NVML_ERROR_INVALID_ARGUMENT;
    struct scope scope = device_scope(device);
    if (!state_has((struct scope){scope.gpu, WHOLE_GPU}))
        return NVML_ERROR_GPU_IS_LOST;
    return state_has(scope) ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t gate_leave(const char *function, nvmlDevice_t device, nvmlReturn_t status)
{
    write_log(function, device_scope(device), state_error_name(status));
    pthread_mutex_unlock(&lock);
    return status;
}

nvmlReturn_t gate_initialize(const char *function)
{
    pthread_mutex_lock(&lock);
    if (initializations == 0)
        read_environment();
    look_at_state();
    nvmlReturn_t status = pass_driver(function, everywhere);
    if (status == NVML_SUCCESS)
        status = gate_failure(function, everywhere);
    if (status == NVML_SUCCESS && initializations++ == 0) {
        generation = state_driver_generation();
        list_gpus();
    }
    return gate_leave(function, NULL, status);
}

nvmlReturn_t gate_shut_down(const char *function)
{
    nvmlReturn_t status = gate_enter(function);
    if (status == NVML_SUCCESS && --initializations == 0)
        forget_initializations();
    return gate_leave(function, NULL, status);
}
