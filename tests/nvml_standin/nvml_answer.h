/* What the files that answer NVML's functions have in common. */
#ifndef NVML_ANSWER_H
#define NVML_ANSWER_H

#include "nvml_state.h"

/* Ends a function: passes the gate, evaluates the answer if the gate let it through, leaves. */
#define ANSWER(device, output, answer)                                             \
    nvmlReturn_t status = gate_enter_device(__func__, device);                     \
    if (status == NVML_SUCCESS)                                                    \
        status = (output) ? (answer) : NVML_ERROR_INVALID_ARGUMENT;                \
    return gate_leave(__func__, device, status)

static const unsigned int no_instance = 0xFFFFFFFF; /* what NVML says where MIG is off */

/* Both leave *value alone where the setting is missing. */
static inline nvmlReturn_t number(nvmlDevice_t device, const char *name, unsigned int *value)
{
    unsigned long long wide = 0;
    nvmlReturn_t status = state_number(device_scope(device), name, &wide);
    if (status == NVML_SUCCESS)
        *value = (unsigned int)wide;
    return status;
}

static inline unsigned int number_or(nvmlDevice_t device, const char *name, unsigned int otherwise)
{
    number(device, name, &otherwise);
    return otherwise;
}

#endif
