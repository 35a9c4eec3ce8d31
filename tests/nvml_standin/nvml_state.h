/* What the state file says, and the gate that every call goes through. All but gate_* are called inside the gate. */
#ifndef NVML_STATE_H
#define NVML_STATE_H

#include <stdbool.h>
#include <stddef.h>

#include "nvml_types.h"

/* A process that loads the library must not have its own names taken over, nor take over ours. */
#pragma GCC visibility push(hidden)

enum { MOST_GPUS = 64, MOST_MIGS = 16, EVERYWHERE = -1, WHOLE_GPU = -1 };

/* What a line or a call is about: every GPU (gpu EVERYWHERE), one GPU (mig WHOLE_GPU) or one MIG instance. */
struct scope {
    int gpu;
    int mig;
};

enum process_kind { COMPUTE, GRAPHICS, MPS };

struct process {
    struct scope scope;
    enum process_kind kind;
    unsigned int pid;
    unsigned long long memory;
    bool has_utilization;
    unsigned int utilization[4]; /* SM, memory, encoder, decoder */
};

struct event {
    struct scope scope;
    unsigned long long sequence;
    unsigned long long type;
    unsigned long long data;
};

struct page {
    unsigned long long address;
    unsigned long long timestamp;
};

enum rule_kind { FAIL, DELAY, CRASH };

struct rule {
    struct scope scope;
    enum rule_kind kind;
    const char *functions;
    nvmlReturn_t status;
    unsigned int milliseconds;
    bool keeps_lock;
    int signal;
};

void state_choose_file(void);
void state_refresh(void);
bool state_driver_is_loaded(void);
unsigned long long state_driver_generation(void);
bool state_has(struct scope scope);
bool state_is_na(struct scope scope, const char *name);
nvmlReturn_t state_text(struct scope scope, const char *name, const char **text);
nvmlReturn_t state_number(struct scope scope, const char *name, unsigned long long *number);
const struct process *state_process(size_t position); /* NULL past the last; events likewise */
const struct event *state_event(size_t position);
const struct rule *state_rule(enum rule_kind kind, const char *function, struct scope scope);
bool state_next_page(const char **text, struct page *page);
const char *state_error_name(nvmlReturn_t status);

/* Each call passes through gate_enter*, which locks, and gate_leave, which logs and unlocks, whatever the outcome. */
void gate_open(void);
nvmlReturn_t gate_pass(const char *function, nvmlDevice_t device);
nvmlReturn_t gate_enter(const char *function);
nvmlReturn_t gate_enter_device(const char *function, nvmlDevice_t device);
nvmlReturn_t gate_leave(const char *function, nvmlDevice_t device, nvmlReturn_t status);
nvmlReturn_t gate_initialize(const char *function);
nvmlReturn_t gate_shut_down(const char *function);
void gate_nap(void); /* a moment in which other calls may pass */
unsigned long long gate_microseconds(void);
nvmlReturn_t gate_failure(const char *function, struct scope scope);

nvmlDevice_t device_at(struct scope scope);
bool device_is_ours(const void *device);
struct scope device_scope(nvmlDevice_t device);
unsigned int gpus_listed(void);
int gpu_listed_at(unsigned int index);

void events_forget(void);

#pragma GCC visibility pop

#endif
