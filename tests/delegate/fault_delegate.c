/*
A TFLite external delegate that works, or fails in the way that it is told to.

A real delegate as far as LiteRT and tflite-runtime can tell: they load it, offer it the graph, and run what it claims.
The structs below are written from the published 64-bit layout of the C interface, with only the fields in use; the
library needs no header and no library of TensorFlow.

Options, key and value, from the environment variable FAULT_DELEGATE as `key=value,key=value`, then from the caller:
    claim=edgetpu      the operator edgetpu-custom-op (the default)
    claim=all          every operator that it can compute, see OPERATORS
    claim=NAME+NAME    the operators of these names, as in claim=RESHAPE+ADD
    claim=none         nothing
    fault=ok           works (the default)
    fault=create_fails     creation gives NULL without a word, as libedgetpu does without a device
    fault=prepare_fails    it refuses the graph
    fault=claims_nothing   the same as claim=none
    fault=invoke_error     a run fails
    fault=nan              a run gives NaN; in a tensor of integers, all bits set
    fault=wrong            a run gives every second element off by a constant: 40, or 1.0 in a float
    fault=hang             a run never ends
    fault=crash            a run dies by SIGSEGV
    fault=unplugged        a run fails, and creation gives NULL: with only_if, a device that somebody pulls out
    at=N               the first run that a fault of a run shows in, 1 where not given; it stays from then on
    slow_ms=N          each run takes that much longer
    only_if=PATH       the fault is there only while this file is
    journal=PATH       a line is appended for each of: create, prepare, claim, invoke, free, destroy
    device=WORD        goes into the journal, as any other key that libedgetpu knows would

What it computes: an operator of TFLite, exactly. For edgetpu-custom-op, whose real program nobody outside the chip can
run, numbers that follow from the inputs alone: the seed is the FNV-1a hash (64 bits) of all bytes of the operator's
inputs in their order, and each output in turn is filled from that one stream of xorshift64* numbers r, element by
element: float r / 2^64, integers of 8 bits the top byte of r, wider integers r % 100. A seed of 0 becomes 1.
*/

#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The interface. */

typedef enum { OK = 0, ERROR = 1, DELEGATE_ERROR = 2 } Status;

typedef struct {
  int size;
  int data[];
} IntArray;

typedef enum { FLOAT32 = 1, INT32 = 2, UINT8 = 3, INT64 = 4, INT16 = 7, INT8 = 9 } ElementType;

typedef struct {
  int type;
  void *data;
  IntArray *dims;
  char quantization_and_allocation[16];
  size_t bytes;
  char more[64];
} Tensor;

typedef struct {
  IntArray *inputs;
  IntArray *outputs;
  IntArray *intermediates;
  IntArray *temporaries;
  void *user_data;
  void *builtin_data;
} Node;

struct Context;

typedef struct {
  void *(*init)(struct Context *, const char *, size_t);
  void (*free)(struct Context *, void *);
  Status (*prepare)(struct Context *, Node *);
  Status (*invoke)(struct Context *, Node *);
  void *profiling_string;
  int builtin_code;
  const char *custom_name;
  int version;
  void *more[3];
} Registration;

typedef struct Delegate {
  void *data;
  Status (*prepare)(struct Context *, struct Delegate *);
  void *copy_from_buffer_handle;
  void *copy_to_buffer_handle;
  void *free_buffer_handle;
  int64_t flags;
  void *opaque;
} Delegate;

typedef struct Context {
  size_t tensors_size;
  Status (*get_execution_plan)(struct Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  Status (*resize_tensor)(struct Context *, Tensor *, IntArray *); /* Takes the array. */
  void (*report_error)(struct Context *, const char *, ...);
  void *add_tensors;
  Status (*get_node_and_registration)(struct Context *, int, Node **, Registration **);
  Status (*replace_nodes)(struct Context *, Registration, const IntArray *, Delegate *);
} Context;

typedef struct {
  Delegate *delegate;
  IntArray *nodes;
  IntArray *inputs;
  IntArray *outputs;
} DelegateParams;

#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field)
AT(Delegate, prepare, 8);
AT(Delegate, copy_from_buffer_handle, 16);
AT(Delegate, free_buffer_handle, 32);
AT(Delegate, flags, 40);
AT(Delegate, opaque, 48);
_Static_assert(sizeof(Delegate) == 56, "Delegate");
AT(Context, get_execution_plan, 8);
AT(Context, tensors, 16);
AT(Context, resize_tensor, 32);
AT(Context, report_error, 40);
AT(Context, get_node_and_registration, 56);
AT(Context, replace_nodes, 64);
AT(Registration, profiling_string, 32);
AT(Registration, builtin_code, 40);
AT(Registration, custom_name, 48);
AT(Registration, version, 56);
_Static_assert(sizeof(Registration) == 88, "Registration");
AT(Node, user_data, 32);
AT(Tensor, data, 8);
AT(Tensor, dims, 16);
AT(Tensor, bytes, 40);
_Static_assert(sizeof(Tensor) == 112, "Tensor");
AT(DelegateParams, nodes, 8);
AT(DelegateParams, inputs, 16);
AT(DelegateParams, outputs, 24);

#define BUILTIN_CUSTOM 32
#define BUILTIN_DELEGATE 51
#define ALLOW_DYNAMIC_TENSORS 1
#define MAX_TENSORS_OF_A_NODE 16

/* What it was told. */

typedef enum { NO_FAULT, CREATE_FAILS, PREPARE_FAILS, CLAIMS_NOTHING, INVOKE_ERROR, GIVES_NAN, WRONG, HANG, CRASH,
               UNPLUGGED } Fault;

static const char *const FAULTS[] = {
    "ok", "create_fails", "prepare_fails", "claims_nothing", "invoke_error", "nan", "wrong", "hang", "crash",
    "unplugged",
};

typedef struct {
  Delegate interface; /* First: the runtime's pointer is ours. */
  char claim[256];
  Fault fault;
  long at;
  long slow_ms;
  char only_if[4096];
  char journal[4096];
} Options;

static bool is_fault(const Options *options, Fault fault) {
  if (options->fault != fault) return false;
  return !options->only_if[0] || access(options->only_if, F_OK) == 0;
}

static void note(const Options *options, const char *event, long number) {
  if (!options->journal[0]) return;
  FILE *journal = fopen(options->journal, "a");
  if (!journal) return;
  if (number < 0) fprintf(journal, "%s\n", event);
  else fprintf(journal, "%s %ld\n", event, number);
  fclose(journal);
}

/* NULL, or what is wrong with the option. */
static const char *set_option(Options *options, const char *key, const char *value, char *device, size_t room) {
  if (!strcmp(key, "claim")) snprintf(options->claim, sizeof options->claim, "%s", value);
  else if (!strcmp(key, "at")) options->at = atol(value);
  else if (!strcmp(key, "slow_ms")) options->slow_ms = atol(value);
  else if (!strcmp(key, "only_if")) snprintf(options->only_if, sizeof options->only_if, "%s", value);
  else if (!strcmp(key, "journal")) snprintf(options->journal, sizeof options->journal, "%s", value);
  else if (!strcmp(key, "device")) snprintf(device, room, "%s", value);
  else if (!strcmp(key, "fault")) {
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++) {
      if (strcmp(value, FAULTS[i])) continue;
      options->fault = (Fault)i;
      return NULL;
    }
    return "no such fault";
  } else return "no such option";
  return NULL;
}

/* What it computes. */

static size_t size_of(int type) {
  switch (type) {
    case FLOAT32: case INT32: return 4;
    case INT64: return 8;
    case INT16: return 2;
    case INT8: case UINT8: return 1;
    default: return 0;
  }
}

/* An operator with its tensors' memory, while it runs. */
typedef struct {
  const Tensor *in[MAX_TENSORS_OF_A_NODE], *out[MAX_TENSORS_OF_A_NODE];
  const void *in_data[MAX_TENSORS_OF_A_NODE];
  void *out_data[MAX_TENSORS_OF_A_NODE];
  int in_count, out_count;
} Call;

static void copy(const Call *call) { memcpy(call->out_data[0], call->in_data[0], call->out[0]->bytes); }

static void negate(const Call *call) {
  const float *x = call->in_data[0];
  float *y = call->out_data[0];
  for (size_t i = 0; i < call->out[0]->bytes / sizeof *y; i++) y[i] = -x[i];
}

static void add(const Call *call) {
  const float *a = call->in_data[0], *b = call->in_data[1];
  float *y = call->out_data[0];
  for (size_t i = 0; i < call->out[0]->bytes / sizeof *y; i++) y[i] = a[i] + b[i];
}

static void hash(const Call *call) {
  uint64_t seed = 14695981039346656037u;
  for (int i = 0; i < call->in_count; i++) {
    const uint8_t *bytes = call->in_data[i];
    for (size_t k = 0; k < call->in[i]->bytes; k++) seed = (seed ^ bytes[k]) * 1099511628211u;
  }
  if (!seed) seed = 1;
  for (int o = 0; o < call->out_count; o++) {
    const size_t size = size_of(call->out[o]->type);
    for (size_t i = 0; i < call->out[o]->bytes / size; i++) {
      seed ^= seed >> 12;
      seed ^= seed << 25;
      seed ^= seed >> 27;
      const uint64_t r = seed * 2685821657736338717u;
      switch (call->out[o]->type) {
        case FLOAT32: ((float *)call->out_data[o])[i] = (float)(ldexp((double)r, -64)); break;
        case INT64: ((int64_t *)call->out_data[o])[i] = (int64_t)(r % 100); break;
        case INT32: ((int32_t *)call->out_data[o])[i] = (int32_t)(r % 100); break;
        case INT16: ((int16_t *)call->out_data[o])[i] = (int16_t)(r % 100); break;
        default: ((uint8_t *)call->out_data[o])[i] = (uint8_t)(r >> 56);
      }
    }
  }
}

static const struct Operator {
  const char *name;
  int code; /* -1: custom, told by its name. */
  void (*compute)(const Call *);
  bool any_type; /* Otherwise float, all tensors of one shape. */
  int inputs;    /* That it reads; the shape given to a RESHAPE is none. */
} OPERATORS[] = {
    {"edgetpu-custom-op", -1, hash, true, -1},
    {"ADD", 0, add, false, 2},
    {"NEG", 59, negate, false, 1},
    {"RESHAPE", 22, copy, true, 1},
};

static const struct Operator *known(const Registration *registration) {
  for (size_t i = 0; i < sizeof OPERATORS / sizeof *OPERATORS; i++) {
    const struct Operator *each = &OPERATORS[i];
    if (registration->builtin_code == BUILTIN_CUSTOM
            ? each->code < 0 && registration->custom_name && !strcmp(registration->custom_name, each->name)
            : each->code == registration->builtin_code)
      return each;
  }
  return NULL;
}

static bool has_name(const char *claim, const char *name) {
  const size_t length = strlen(name);
  for (const char *at = claim; (at = strstr(at, name)); at += length) {
    if ((at == claim || at[-1] == '+') && (at[length] == 0 || at[length] == '+')) return true;
  }
  return false;
}

static bool wants(const Options *options, const struct Operator *operator) {
  if (!strcmp(options->claim, "all")) return true;
  if (!strcmp(options->claim, "edgetpu")) return operator->code < 0;
  return has_name(options->claim, operator->name);
}

static bool can_compute(const Context *context, const struct Operator *operator, const Node *node) {
  if (node->inputs->size > MAX_TENSORS_OF_A_NODE || node->outputs->size > MAX_TENSORS_OF_A_NODE) return false;
  if (node->inputs->size < operator->inputs) return false;
  for (int i = 0; i < node->outputs->size; i++) {
    const Tensor *out = &context->tensors[node->outputs->data[i]];
    if (!size_of(out->type) || !out->bytes) return false;
    if (operator->code < 0) continue;
    for (int k = 0; k < operator->inputs; k++) {
      if (node->inputs->data[k] < 0) return false;
      const Tensor *in = &context->tensors[node->inputs->data[k]];
      if (in->type != out->type || in->bytes != out->bytes) return false;
      if (!operator->any_type && out->type != FLOAT32) return false;
    }
  }
  /* An activation fused into an ADD is the first field of its options; 0 is none. */
  return operator->compute != add || (node->builtin_data && *(const int *)node->builtin_data == 0);
}

/* What it claimed: some operators in a row. */

typedef struct {
  const struct Operator *operator;
  IntArray *inputs, *outputs;
} Step;

typedef struct {
  Options *options;
  Step *steps;
  int step_count;
  IntArray *own_outputs; /* Of the whole; any other tensor that a step makes lives here and nowhere else. */
  void **inner;          /* By tensor. */
  size_t tensors_size;
  long runs;
} Kernel;

static IntArray *copied(const IntArray *array) {
  const size_t bytes = sizeof(int) * (1 + (size_t)array->size);
  return memcpy(malloc(bytes), array, bytes);
}

static bool holds(const IntArray *array, int value) {
  for (int i = 0; i < array->size; i++) {
    if (array->data[i] == value) return true;
  }
  return false;
}

static void *kernel_init(Context *context, const char *buffer, size_t length) {
  (void)length;
  const DelegateParams *params = (const DelegateParams *)buffer;
  Kernel *kernel = calloc(1, sizeof *kernel);
  kernel->options = (Options *)params->delegate;
  kernel->steps = calloc((size_t)params->nodes->size, sizeof *kernel->steps);
  kernel->own_outputs = copied(params->outputs);
  for (int i = 0; i < params->nodes->size; i++) {
    Node *node;
    Registration *registration;
    if (context->get_node_and_registration(context, params->nodes->data[i], &node, &registration) != OK) continue;
    kernel->steps[kernel->step_count++] = (Step){known(registration), copied(node->inputs), copied(node->outputs)};
  }
  return kernel;
}

static void free_inner(Kernel *kernel) {
  for (size_t i = 0; i < kernel->tensors_size; i++) free(kernel->inner[i]);
  free(kernel->inner);
  kernel->inner = NULL;
  kernel->tensors_size = 0;
}

static void kernel_free(Context *context, void *data) {
  (void)context;
  Kernel *kernel = data;
  if (!kernel) return;
  note(kernel->options, "free", -1);
  free_inner(kernel);
  for (int i = 0; i < kernel->step_count; i++) {
    free(kernel->steps[i].inputs);
    free(kernel->steps[i].outputs);
  }
  free(kernel->steps);
  free(kernel->own_outputs);
  free(kernel);
}

/* Somebody may have given the input another size since the operator was claimed. */
static Status settle(Context *context, const Step *step) {
  if (step->operator->code < 0) return OK;
  const Tensor *in = &context->tensors[step->inputs->data[0]];
  Tensor *out = &context->tensors[step->outputs->data[0]];
  if (in->bytes == out->bytes) return OK;
  if (step->operator->compute != copy) return context->resize_tensor(context, out, copied(in->dims));
  context->report_error(context, "fault delegate: a reshape to %d bytes got %d", (int)out->bytes, (int)in->bytes);
  return ERROR;
}

static Status kernel_prepare(Context *context, Node *node) {
  Kernel *kernel = node->user_data;
  for (int i = 0; i < kernel->step_count; i++) {
    if (settle(context, &kernel->steps[i]) != OK) return ERROR;
  }
  free_inner(kernel);
  kernel->tensors_size = context->tensors_size;
  kernel->inner = calloc(context->tensors_size, sizeof *kernel->inner);
  for (int i = 0; i < kernel->step_count; i++) {
    for (int k = 0; k < kernel->steps[i].outputs->size; k++) {
      const int index = kernel->steps[i].outputs->data[k];
      if (!holds(kernel->own_outputs, index)) kernel->inner[index] = malloc(context->tensors[index].bytes);
    }
  }
  return OK;
}

static void run_step(Context *context, Kernel *kernel, const Step *step) {
  Call call = {0};
  for (int i = 0; i < step->inputs->size; i++) {
    const int index = step->inputs->data[i];
    if (index < 0) continue;
    call.in[call.in_count] = &context->tensors[index];
    call.in_data[call.in_count++] = kernel->inner[index] ? kernel->inner[index] : context->tensors[index].data;
  }
  for (int i = 0; i < step->outputs->size; i++) {
    const int index = step->outputs->data[i];
    call.out[call.out_count] = &context->tensors[index];
    call.out_data[call.out_count++] = kernel->inner[index] ? kernel->inner[index] : context->tensors[index].data;
  }
  step->operator->compute(&call);
}

static void spoil(const Tensor *tensor, Fault fault) {
  const size_t count = tensor->bytes / size_of(tensor->type);
  if (fault == GIVES_NAN) {
    memset(tensor->data, 0xff, tensor->bytes); /* All bits set are a NaN. */
    return;
  }
  for (size_t i = 0; i < count; i += 2) {
    switch (tensor->type) {
      case FLOAT32: ((float *)tensor->data)[i] += 1; break;
      case INT64: ((int64_t *)tensor->data)[i] += 40; break;
      case INT32: ((int32_t *)tensor->data)[i] += 40; break;
      case INT16: ((int16_t *)tensor->data)[i] += 40; break;
      default: ((uint8_t *)tensor->data)[i] += 40;
    }
  }
}

static Status kernel_invoke(Context *context, Node *node) {
  Kernel *kernel = node->user_data;
  const Options *options = kernel->options;
  note(options, "invoke", ++kernel->runs);
  if (options->slow_ms > 0) {
    nanosleep(&(struct timespec){options->slow_ms / 1000, options->slow_ms % 1000 * 1000000}, NULL);
  }
  const bool now = kernel->runs >= options->at;
  if (is_fault(options, UNPLUGGED)) {
    context->report_error(context, "fault delegate: the device is gone");
    return ERROR;
  }
  if (now && is_fault(options, INVOKE_ERROR)) {
    context->report_error(context, "fault delegate: run %d failed, as asked", (int)kernel->runs);
    return ERROR;
  }
  while (now && is_fault(options, HANG)) sleep(1);
  if (now && is_fault(options, CRASH)) {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
  }
  for (int i = 0; i < kernel->step_count; i++) run_step(context, kernel, &kernel->steps[i]);
  for (int i = 0; now && i < node->outputs->size; i++) {
    const Tensor *out = &context->tensors[node->outputs->data[i]];
    if (is_fault(options, GIVES_NAN)) spoil(out, GIVES_NAN);
    if (is_fault(options, WRONG)) spoil(out, WRONG);
  }
  return OK;
}

/* What the runtime calls. */

static Status prepare(Context *context, Delegate *delegate) {
  const Options *options = (const Options *)delegate;
  note(options, "prepare", -1);
  if (is_fault(options, PREPARE_FAILS)) {
    context->report_error(context, "fault delegate: this graph is refused, as asked");
    return ERROR;
  }
  IntArray *plan;
  if (context->get_execution_plan(context, &plan) != OK) return ERROR;
  IntArray *claimed = malloc(sizeof(int) * (1 + (size_t)plan->size));
  claimed->size = 0;
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *registration;
    if (context->get_node_and_registration(context, plan->data[i], &node, &registration) != OK) continue;
    const struct Operator *operator = known(registration);
    if (operator && wants(options, operator) && can_compute(context, operator, node)) {
      claimed->data[claimed->size++] = plan->data[i];
    }
  }
  if (is_fault(options, CLAIMS_NOTHING)) claimed->size = 0;
  note(options, "claim", claimed->size);
  const Registration kernel = {
      .init = kernel_init,
      .free = kernel_free,
      .prepare = kernel_prepare,
      .invoke = kernel_invoke,
      .builtin_code = BUILTIN_DELEGATE,
      .custom_name = "FaultDelegate",
      .version = 1,
  };
  const Status status = claimed->size ? context->replace_nodes(context, kernel, claimed, delegate) : OK;
  free(claimed);
  return status;
}

static void complain(void (*report_error)(const char *), const char *key, const char *value, const char *what) {
  char message[512];
  snprintf(message, sizeof message, "%s=%s: %s", key, value, what);
  if (report_error) report_error(message);
}

static bool read_environment(Options *options, char *device, size_t room, void (*report_error)(const char *)) {
  const char *words = getenv("FAULT_DELEGATE");
  if (!words) return true;
  char *own = strdup(words), *rest = own;
  bool fine = true;
  for (char *pair; fine && (pair = strsep(&rest, ","));) {
    if (!*pair) continue;
    char *value = strchr(pair, '=');
    if (value) *value++ = 0;
    const char *wrong = set_option(options, pair, value ? value : "", device, room);
    if (wrong) complain(report_error, pair, value ? value : "", wrong);
    fine = !wrong;
  }
  free(own);
  return fine;
}

Delegate *tflite_plugin_create_delegate(const char *const *keys, const char *const *values, size_t count,
                                        void (*report_error)(const char *)) {
  Options *options = calloc(1, sizeof *options);
  char created[128] = "create", device[64] = "";
  snprintf(options->claim, sizeof options->claim, "edgetpu");
  options->at = 1;
  bool fine = read_environment(options, device, sizeof device, report_error);
  for (size_t i = 0; fine && i < count; i++) {
    const char *wrong = set_option(options, keys[i], values[i], device, sizeof device);
    if (wrong) complain(report_error, keys[i], values[i], wrong);
    fine = !wrong;
  }
  if (device[0]) snprintf(created, sizeof created, "create device=%s", device);
  note(options, created, -1);
  if (!fine || is_fault(options, CREATE_FAILS) || is_fault(options, UNPLUGGED)) {
    free(options);
    return NULL;
  }
  options->interface = (Delegate){.data = options, .prepare = prepare, .flags = ALLOW_DYNAMIC_TENSORS};
  return &options->interface;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) {
  if (!delegate) return;
  note((const Options *)delegate, "destroy", -1);
  free(delegate);
}
