/* Event sets: what is registered and what each set was given already. */
#include <stddef.h>
#include <string.h>

#include "nvml_answer.h"

enum { MOST_EVENT_SETS = 64 };

static struct nvmlEventSet_st {
    bool is_used;
    struct {
        unsigned long long types;
        unsigned long long seen; /* the highest sequence number that is not to be delivered any more */
    } gpus[MOST_GPUS];
} event_sets[MOST_EVENT_SETS];

void events_forget(void)
{
    memset(event_sets, 0, sizeof event_sets);
}

static bool is_event_set(nvmlEventSet_t set)
{
    for (size_t i = 0; i < MOST_EVENT_SETS; i++)
        if (set == &event_sets[i])
            return set->is_used;
    return false;
}

static nvmlReturn_t take_event_set(nvmlEventSet_t *set)
{
    for (size_t i = 0; i < MOST_EVENT_SETS; i++)
        if (!event_sets[i].is_used) {
            event_sets[i] = (struct nvmlEventSet_st){.is_used = true};
            *set = &event_sets[i];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_INSUFFICIENT_RESOURCES;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    nvmlReturn_t status = gate_enter(__func__);
    if (status == NVML_SUCCESS)
        status = set ? take_event_set(set) : NVML_ERROR_INVALID_ARGUMENT;
    return gate_leave(__func__, NULL, status);
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    nvmlReturn_t status = gate_enter(__func__);
    if (status == NVML_SUCCESS && !is_event_set(set))
        status = NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS)
        set->is_used = false;
    return gate_leave(__func__, NULL, status);
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *eventTypes)
{
    ANSWER(device, eventTypes, (*eventTypes = nvmlEventTypeXidCriticalError, NVML_SUCCESS));
}

/* What happened before the registration is never delivered. */
static nvmlReturn_t register_events(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    int gpu = device_scope(device).gpu;
    const struct event *event;
    for (size_t i = 0; set->gpus[gpu].types == 0 && (event = state_event(i)); i++)
        if (event->scope.gpu == gpu && event->sequence > set->gpus[gpu].seen)
            set->gpus[gpu].seen = event->sequence;
    set->gpus[gpu].types |= types;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long eventTypes, nvmlEventSet_t set)
{
    ANSWER(device, is_event_set(set), register_events(device, eventTypes, set));
}

static bool is_wanted(nvmlEventSet_t set, const struct event *event)
{
    return (set->gpus[event->scope.gpu].types & event->type) && event->sequence > set->gpus[event->scope.gpu].seen;
}

static bool take_event(nvmlEventSet_t set, nvmlEventData_t *data)
{
    const struct event *event, *first = NULL;
    for (size_t i = 0; (event = state_event(i)); i++)
        if (is_wanted(set, event) && (!first || event->sequence < first->sequence))
            first = event;
    if (!first)
        return false;
    set->gpus[first->scope.gpu].seen = first->sequence;
    *data = (nvmlEventData_t){
        .device = device_at((struct scope){first->scope.gpu, WHOLE_GPU}),
        .eventType = first->type,
        .eventData = first->data,
        .gpuInstanceId = number_or(device_at(first->scope), "gi", no_instance),
        .computeInstanceId = number_or(device_at(first->scope), "ci", no_instance),
    };
    return true;
}

/* One lost GPU fails the wait for all that are registered with it. */
static nvmlReturn_t check_registered(const char *function, nvmlEventSet_t set)
{
    nvmlReturn_t status = NVML_SUCCESS;
    for (int gpu = 0; status == NVML_SUCCESS && gpu < MOST_GPUS; gpu++) {
        struct scope scope = {gpu, WHOLE_GPU};
        if (set->gpus[gpu].types)
            status = state_has(scope) ? gate_failure(function, scope) : NVML_ERROR_GPU_IS_LOST;
    }
    return status;
}

static nvmlReturn_t look_for_event(const char *function, nvmlEventSet_t set, nvmlEventData_t *data)
{
    if (!is_event_set(set)) /* freed, or forgotten with the driver, while this call waited */
        return state_driver_is_loaded() ? NVML_ERROR_UNINITIALIZED : NVML_ERROR_DRIVER_NOT_LOADED;
    nvmlReturn_t status = check_registered(function, set);
    if (status != NVML_SUCCESS)
        return status;
    return take_event(set, data) ? NVML_SUCCESS : NVML_ERROR_TIMEOUT;
}

static nvmlReturn_t wait_for_event(const char *function, nvmlEventSet_t set, nvmlEventData_t *data,
                                   unsigned int timeout)
{
    unsigned long long start = gate_microseconds();
    nvmlReturn_t status;
    while ((status = look_for_event(function, set, data)) == NVML_ERROR_TIMEOUT &&
           gate_microseconds() - start < timeout * 1000ULL)
        gate_nap();
    return status;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms)
{
    nvmlReturn_t status = gate_enter(__func__);
    if (status == NVML_SUCCESS)
        status = data && is_event_set(set) ? wait_for_event(__func__, set, data, timeoutms)
                                           : NVML_ERROR_INVALID_ARGUMENT;
    return gate_leave(__func__, NULL, status);
}

/* The first version's data ends before the instances' numbers. */
nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms)
{
    nvmlEventData_t found;
    nvmlReturn_t status = gate_enter(__func__);
    if (status == NVML_SUCCESS)
        status = data && is_event_set(set) ? wait_for_event(__func__, set, &found, timeoutms)
                                           : NVML_ERROR_INVALID_ARGUMENT;
    if (status == NVML_SUCCESS)
        memcpy(data, &found, offsetof(nvmlEventData_t, gpuInstanceId));
    return gate_leave(__func__, NULL, status);
}
