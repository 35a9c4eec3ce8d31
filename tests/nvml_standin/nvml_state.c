/* Reads the state file; nvml_standin.c describes its lines. */
#define _GNU_SOURCE
#include "nvml_state.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum setting_kind { NUMBER, TEXT, PAGES, FIELD };

struct setting {
    struct scope scope;
    const char *name;
    const char *text;
    unsigned long long number;
    bool available;
};

/* Text is the file's own, cut into words in place; each array has room for as many entries as there are lines. */
struct state {
    char *text;
    struct stat identity;
    bool driver_is_loaded;
    struct setting *settings;
    struct process *processes;
    struct event *events;
    struct rule *rules;
    size_t setting_count, process_count, event_count, rule_count;
};

static struct state current;
static char path[PATH_MAX];

static const struct {
    const char *name;
    enum setting_kind kind;
} known_settings[] = {
    {"driver.version", TEXT},          {"driver.generation", NUMBER},
    {"nvml.version", TEXT},            {"cuda.version", TEXT},
    {"uuid", TEXT},                    {"name", TEXT},
    {"serial", TEXT},                  {"vbios", TEXT},
    {"board.part", TEXT},              {"board.id", NUMBER},
    {"board.multi_gpu", NUMBER},       {"inforom", TEXT},
    {"brand", NUMBER},                 {"architecture", NUMBER},
    {"cores", NUMBER},                 {"minor", NUMBER},
    {"pci", TEXT},                     {"pci.device_id", NUMBER},
    {"pci.subsystem_id", NUMBER},      {"cuda.capability", TEXT},
    {"compute.mode", NUMBER},          {"persistence", NUMBER},
    {"display.mode", NUMBER},          {"display.active", NUMBER},
    {"memory.total", NUMBER},          {"memory.used", NUMBER},
    {"memory.free", NUMBER},           {"memory.reserved", NUMBER},
    {"memory.bus_width", NUMBER},      {"bar1.total", NUMBER},
    {"bar1.used", NUMBER},             {"processes", NUMBER},
    {"utilization.gpu", NUMBER},       {"utilization.memory", NUMBER},
    {"utilization.encoder", NUMBER},   {"utilization.decoder", NUMBER},
    {"utilization.jpeg", NUMBER},      {"utilization.ofa", NUMBER},
    {"power", NUMBER},                 {"power.limit", NUMBER},
    {"power.limit.default", NUMBER},   {"power.limit.min", NUMBER},
    {"power.limit.max", NUMBER},       {"energy", NUMBER},
    {"temperature", NUMBER},           {"temperature.shutdown", NUMBER},
    {"temperature.slowdown", NUMBER},  {"temperature.memory_max", NUMBER},
    {"temperature.gpu_max", NUMBER},   {"fan", NUMBER},
    {"fan.count", NUMBER},             {"pstate", NUMBER},
    {"clock.graphics", NUMBER},        {"clock.graphics.max", NUMBER},
    {"clock.sm", NUMBER},              {"clock.sm.max", NUMBER},
    {"clock.memory", NUMBER},          {"clock.memory.max", NUMBER},
    {"clock.video", NUMBER},           {"clock.video.max", NUMBER},
    {"clocks.reasons", NUMBER},        {"clocks.reasons.supported", NUMBER},
    {"ecc.mode", NUMBER},              {"ecc.mode.pending", NUMBER},
    {"ecc.corrected.volatile", NUMBER}, {"ecc.corrected.aggregate", NUMBER},
    {"ecc.uncorrected.volatile", NUMBER}, {"ecc.uncorrected.aggregate", NUMBER},
    {"retired.single_bit", PAGES},     {"retired.double_bit", PAGES},
    {"retired.pending", NUMBER},       {"rows.corrected", NUMBER},
    {"rows.uncorrected", NUMBER},      {"rows.pending", NUMBER},
    {"rows.failure", NUMBER},          {"mig.mode", NUMBER},
    {"mig.mode.pending", NUMBER},      {"mig.most", NUMBER},
    {"gi", NUMBER},                    {"ci", NUMBER},
    {"slices.gpu", NUMBER},            {"slices.compute", NUMBER},
    {"multiprocessors", NUMBER},       {"pcie.tx", NUMBER},
    {"pcie.rx", NUMBER},               {"pcie.generation", NUMBER},
    {"pcie.generation.max", NUMBER},   {"pcie.width", NUMBER},
    {"pcie.width.max", NUMBER},        {"pcie.replays", NUMBER},
    {"nvlink.links", NUMBER},          {"nvlink.version", NUMBER},
};

#define NAMED(name) {#name, NVML_ERROR_##name}
static const struct {
    const char *name;
    nvmlReturn_t status;
} errors[] = {
    {"SUCCESS", NVML_SUCCESS},
    NAMED(UNINITIALIZED), NAMED(INVALID_ARGUMENT), NAMED(NOT_SUPPORTED), NAMED(NO_PERMISSION),
    NAMED(ALREADY_INITIALIZED), NAMED(NOT_FOUND), NAMED(INSUFFICIENT_SIZE), NAMED(INSUFFICIENT_POWER),
    NAMED(DRIVER_NOT_LOADED), NAMED(TIMEOUT), NAMED(IRQ_ISSUE), NAMED(LIBRARY_NOT_FOUND),
    NAMED(FUNCTION_NOT_FOUND), NAMED(CORRUPTED_INFOROM), NAMED(GPU_IS_LOST), NAMED(RESET_REQUIRED),
    NAMED(OPERATING_SYSTEM), NAMED(LIB_RM_VERSION_MISMATCH), NAMED(IN_USE), NAMED(MEMORY), NAMED(NO_DATA),
    NAMED(VGPU_ECC_NOT_SUPPORTED), NAMED(INSUFFICIENT_RESOURCES), NAMED(FREQ_NOT_SUPPORTED),
    NAMED(ARGUMENT_VERSION_MISMATCH), NAMED(DEPRECATED), NAMED(NOT_READY), NAMED(GPU_NOT_FOUND),
    NAMED(INVALID_STATE), NAMED(RESET_TYPE_NOT_SUPPORTED), NAMED(UNKNOWN),
};
#define LENGTH(array) (sizeof(array) / sizeof *(array))

const char *state_error_name(nvmlReturn_t status)
{
    for (size_t i = 0; i < LENGTH(errors); i++)
        if (errors[i].status == status)
            return errors[i].name;
    return "unnamed error";
}

static bool error_named(const char *name, nvmlReturn_t *status)
{
    for (size_t i = 0; i < LENGTH(errors); i++)
        if (strcmp(errors[i].name, name) == 0) {
            *status = errors[i].status;
            return true;
        }
    return false;
}

/* Cuts off and returns the next word, "" when there is none. */
static char *next_word(char **rest)
{
    char *word = *rest + strspn(*rest, " \t");
    *rest = word + strcspn(word, " \t");
    if (**rest)
        *(*rest)++ = '\0';
    return word;
}

static bool is_end(const char *rest)
{
    return rest[strspn(rest, " \t")] == '\0';
}

static bool read_number(const char *text, unsigned long long *number)
{
    static const char suffixes[] = "KMGT";
    char *end;
    if (!isdigit((unsigned char)*text))
        return false; /* strtoull would take "-1" for a very large number */
    errno = 0;
    *number = strtoull(text, &end, 0);
    const char *suffix = *end ? strchr(suffixes, *end) : NULL;
    if (suffix) {
        unsigned int shift = 10 * (unsigned int)(suffix - suffixes + 1);
        if (*number > ULLONG_MAX >> shift)
            return false;
        *number <<= shift;
        end++;
    }
    return errno == 0 && *end == '\0';
}

static bool read_small(const char *text, unsigned long long most, unsigned int *number)
{
    unsigned long long wide;
    if (!read_number(text, &wide) || wide > most)
        return false;
    *number = (unsigned int)wide;
    return true;
}

/* A page is ADDRESS or ADDRESS@TIMESTAMP. */
bool state_next_page(const char **text, struct page *page)
{
    char *end;
    const char *start = *text + strspn(*text, " \t");
    *page = (struct page){.address = strtoull(start, &end, 0)};
    if (end == start)
        return false;
    if (*end == '@')
        page->timestamp = strtoull(end + 1, &end, 0);
    *text = end;
    return *end == '\0' || isspace((unsigned char)*end);
}

static bool is_pages(const char *text)
{
    struct page page;
    while (!is_end(text))
        if (!state_next_page(&text, &page))
            return false;
    return true;
}

static bool is_field(const char *text)
{
    char *end;
    strtod(text, &end);
    return end != text && *end == '\0';
}

static bool find_setting_kind(const char *name, enum setting_kind *kind)
{
    if (strncmp(name, "field.", 6) == 0) {
        *kind = FIELD;
        return true;
    }
    for (size_t i = 0; i < LENGTH(known_settings); i++)
        if (strcmp(known_settings[i].name, name) == 0) {
            *kind = known_settings[i].kind;
            return true;
        }
    return false;
}

static bool add_setting(struct state *state, struct scope scope, const char *name, const char *text)
{
    enum setting_kind kind;
    struct setting setting = {.scope = scope, .name = name, .text = text, .available = strcmp(text, "na") != 0};
    if (!find_setting_kind(name, &kind))
        return false;
    if (setting.available && ((kind == NUMBER && !read_number(text, &setting.number)) ||
                              (kind == PAGES && !is_pages(text)) || (kind == FIELD && !is_field(text))))
        return false;
    state->settings[state->setting_count++] = setting;
    return true;
}

static bool add_process(struct state *state, struct scope scope, char *rest)
{
    struct process process = {.scope = scope, .memory = (unsigned long long)NVML_VALUE_NOT_AVAILABLE};
    const char *kind = next_word(&rest), *pid = next_word(&rest), *memory = next_word(&rest);
    process.kind = strcmp(kind, "mps") == 0 ? MPS : strcmp(kind, "graphics") == 0 ? GRAPHICS : COMPUTE;
    if (process.kind == COMPUTE && strcmp(kind, "compute") != 0)
        return false;
    if (!read_small(pid, UINT_MAX, &process.pid))
        return false;
    if (strcmp(memory, "na") != 0 && !read_number(memory, &process.memory))
        return false;
    process.has_utilization = !is_end(rest);
    for (size_t i = 0; process.has_utilization && i < LENGTH(process.utilization); i++)
        if (!read_small(next_word(&rest), 100, &process.utilization[i]))
            return false;
    if (scope.gpu == EVERYWHERE || !is_end(rest))
        return false;
    state->processes[state->process_count++] = process;
    return true;
}

/* event SEQUENCE xid CODE, or event SEQUENCE TYPE DATA */
static bool add_event(struct state *state, struct scope scope, char *rest)
{
    struct event event = {.scope = scope, .type = nvmlEventTypeXidCriticalError};
    const char *sequence = next_word(&rest), *type = next_word(&rest), *data = next_word(&rest);
    if (!read_number(sequence, &event.sequence) || !read_number(data, &event.data))
        return false;
    if (strcmp(type, "xid") != 0 && !read_number(type, &event.type))
        return false;
    if (scope.gpu == EVERYWHERE || !is_end(rest))
        return false;
    state->events[state->event_count++] = event;
    return true;
}

static bool add_rule(struct state *state, struct rule rule, const char *rest)
{
    if (*rule.functions == '\0' || !is_end(rest))
        return false;
    state->rules[state->rule_count++] = rule;
    return true;
}

static bool add_failure(struct state *state, struct scope scope, char *rest)
{
    struct rule rule = {.scope = scope, .kind = FAIL, .functions = next_word(&rest)};
    return error_named(next_word(&rest), &rule.status) && add_rule(state, rule, rest);
}

static bool add_delay(struct state *state, struct scope scope, char *rest)
{
    struct rule rule = {.scope = scope, .kind = DELAY, .functions = next_word(&rest), .milliseconds = UINT_MAX};
    const char *length = next_word(&rest), *manner = next_word(&rest);
    if (strcmp(length, "forever") != 0 && !read_small(length, UINT_MAX - 1, &rule.milliseconds))
        return false;
    rule.keeps_lock = strcmp(manner, "locked") == 0;
    return (rule.keeps_lock || *manner == '\0') && add_rule(state, rule, rest);
}

static bool add_crash(struct state *state, struct scope scope, char *rest)
{
    struct rule rule = {.scope = scope, .kind = CRASH, .functions = next_word(&rest)};
    const char *manner = next_word(&rest);
    rule.signal = strcmp(manner, "segfault") == 0 ? SIGSEGV : SIGABRT;
    return (rule.signal == SIGSEGV || *manner == '\0' || strcmp(manner, "abort") == 0) && add_rule(state, rule, rest);
}

static bool set_driver(struct state *state, struct scope scope, char *rest)
{
    const char *word = next_word(&rest);
    if (scope.gpu != EVERYWHERE || (strcmp(word, "on") != 0 && strcmp(word, "off") != 0))
        return false;
    state->driver_is_loaded = strcmp(word, "on") == 0;
    return true;
}

static const struct {
    const char *word;
    bool (*read)(struct state *state, struct scope scope, char *rest);
} instructions[] = {
    {"process", add_process}, {"event", add_event}, {"fail", add_failure},
    {"delay", add_delay},     {"crash", add_crash}, {"driver", set_driver},
};

/* Reads "gpu N" and "mig M" where the line has them, and returns the word after them; NULL if a number is bad. */
static char *read_scope(char **rest, struct scope *scope)
{
    unsigned int number;
    char *word = next_word(rest);
    *scope = (struct scope){EVERYWHERE, WHOLE_GPU};
    if (strcmp(word, "gpu") != 0)
        return word;
    if (!read_small(next_word(rest), MOST_GPUS - 1, &number))
        return NULL;
    scope->gpu = (int)number;
    word = next_word(rest);
    if (strcmp(word, "mig") != 0)
        return word;
    if (!read_small(next_word(rest), MOST_MIGS - 1, &number))
        return NULL;
    scope->mig = (int)number;
    return next_word(rest);
}

static bool read_line(struct state *state, char *line)
{
    struct scope scope;
    char *value = strchr(line, '=');
    if (value)
        *value++ = '\0';
    const char *word = read_scope(&line, &scope);
    if (!word)
        return false;
    if (value)
        return is_end(line) && add_setting(state, scope, word, value + strspn(value, " \t"));
    for (size_t i = 0; i < LENGTH(instructions); i++)
        if (strcmp(instructions[i].word, word) == 0)
            return instructions[i].read(state, scope, line);
    return false;
}

static void read_lines(struct state *state, char *text)
{
    char *line;
    for (unsigned int number = 1; (line = strsep(&text, "\n")); number++) {
        line += strspn(line, " \t");
        for (char *end = line + strlen(line); end > line && isspace((unsigned char)end[-1]);)
            *--end = '\0';
        if (*line == '\0' || *line == '#')
            continue;
        char shown[81];
        snprintf(shown, sizeof shown, "%s", line);
        if (!read_line(state, line))
            fprintf(stderr, "nvml stand-in: %s:%u ignored: %s\n", path, number, shown);
    }
}

static void forget(struct state *state)
{
    free(state->text);
    free(state->settings);
    free(state->processes);
    free(state->events);
    free(state->rules);
    *state = (struct state){0};
}

/* Returns the whole file as a string, and whose file it was: of two names for one moment the open file is right. */
static char *read_file(struct stat *identity)
{
    char *text = NULL;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0 && fstat(file, identity) == 0 && (text = calloc(1, (size_t)identity->st_size + 1))) {
        size_t filled = 0, size = (size_t)identity->st_size;
        for (ssize_t got; filled < size && (got = read(file, text + filled, size - filled)) > 0;)
            filled += (size_t)got;
    }
    if (file >= 0)
        close(file);
    return text;
}

static size_t count_lines(const char *text)
{
    size_t lines = 1;
    for (; (text = strchr(text, '\n')); text++)
        lines++;
    return lines;
}

/* Without a readable file the state stays empty, which is a machine without the driver. */
static void load(void)
{
    forget(&current);
    struct stat identity;
    char *text = read_file(&identity);
    if (!text)
        return;
    size_t lines = count_lines(text);
    current = (struct state){
        .text = text,
        .identity = identity,
        .driver_is_loaded = true,
        .settings = calloc(lines, sizeof *current.settings),
        .processes = calloc(lines, sizeof *current.processes),
        .events = calloc(lines, sizeof *current.events),
        .rules = calloc(lines, sizeof *current.rules),
    };
    if (!current.settings || !current.processes || !current.events || !current.rules)
        forget(&current);
    else
        read_lines(&current, text);
}

/* Looked up when a process first calls and at each first nvmlInit, not at each call: getenv is not thread-safe. */
void state_choose_file(void)
{
    const char *named = getenv("NVML_STANDIN_STATE");
    if (!named)
        fputs("nvml stand-in: NVML_STANDIN_STATE is not set\n", stderr);
    snprintf(path, sizeof path, "%s", named ? named : "");
}

void state_refresh(void)
{
    struct stat now;
    bool is_there = stat(path, &now) == 0;
    const struct stat *before = &current.identity;
    if (is_there && current.text && now.st_ino == before->st_ino && now.st_size == before->st_size &&
        now.st_mtim.tv_sec == before->st_mtim.tv_sec && now.st_mtim.tv_nsec == before->st_mtim.tv_nsec)
        return;
    load();
}

bool state_driver_is_loaded(void)
{
    return current.driver_is_loaded;
}

static bool same(struct scope a, struct scope b)
{
    return a.gpu == b.gpu && a.mig == b.mig;
}

/* The last line on a setting counts. */
static const struct setting *find_setting(struct scope scope, const char *name)
{
    for (size_t i = current.setting_count; i-- > 0;)
        if (same(current.settings[i].scope, scope) && strcmp(current.settings[i].name, name) == 0)
            return &current.settings[i];
    return NULL;
}

unsigned long long state_driver_generation(void)
{
    unsigned long long generation = 0;
    state_number((struct scope){EVERYWHERE, WHOLE_GPU}, "driver.generation", &generation);
    return generation;
}

bool state_has(struct scope scope)
{
    for (size_t i = 0; i < current.setting_count; i++)
        if (same(current.settings[i].scope, scope))
            return true;
    return false;
}

bool state_is_na(struct scope scope, const char *name)
{
    const struct setting *setting = find_setting(scope, name);
    return setting && !setting->available;
}

nvmlReturn_t state_text(struct scope scope, const char *name, const char **text)
{
    const struct setting *setting = find_setting(scope, name);
    if (!setting || !setting->available)
        return NVML_ERROR_NOT_SUPPORTED;
    *text = setting->text;
    return NVML_SUCCESS;
}

nvmlReturn_t state_number(struct scope scope, const char *name, unsigned long long *number)
{
    const struct setting *setting = find_setting(scope, name);
    if (!setting || !setting->available)
        return NVML_ERROR_NOT_SUPPORTED;
    *number = setting->number;
    return NVML_SUCCESS;
}

const struct process *state_process(size_t position)
{
    return position < current.process_count ? &current.processes[position] : NULL;
}

const struct event *state_event(size_t position)
{
    return position < current.event_count ? &current.events[position] : NULL;
}

static bool covers(struct scope rule, struct scope call)
{
    return rule.gpu == EVERYWHERE || (rule.gpu == call.gpu && (rule.mig == WHOLE_GPU || rule.mig == call.mig));
}

/* The last matching line counts, so an exception follows what it is an exception to. */
const struct rule *state_rule(enum rule_kind kind, const char *function, struct scope scope)
{
    for (size_t i = current.rule_count; i-- > 0;) {
        const struct rule *rule = &current.rules[i];
        if (rule->kind == kind && covers(rule->scope, scope) && fnmatch(rule->functions, function, 0) == 0)
            return rule;
    }
    return NULL;
}
