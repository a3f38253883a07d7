/* A plugin of QEMU: how many instructions ran before each call of getpriority, a line each, to the file that counts= names. */

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define GETPRIORITY 141 /* on aarch64 */

struct qemu_plugin_tb;

/* What is used of the emulator's interface, whose header Debian does not ship. */
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t plugin, void (*)(uint64_t plugin, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*)(unsigned cpu, void *size),
                                          int registers, void *size);
void qemu_plugin_register_vcpu_syscall_cb(uint64_t plugin,
                                          void (*)(uint64_t plugin, unsigned cpu, int64_t number, uint64_t, uint64_t,
                                                   uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));

int qemu_plugin_version = VERSION;

static uint64_t count;
static FILE *file;

static void run(unsigned cpu, void *size) {
  (void)cpu;
  count += (uintptr_t)size;
}

static void translated(uint64_t plugin, struct qemu_plugin_tb *block) {
  (void)plugin;
  qemu_plugin_register_vcpu_tb_exec_cb(block, run, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void called(uint64_t plugin, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)plugin, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == GETPRIORITY) {
    fprintf(file, "%" PRIu64 "\n", count);
    fflush(file);
  }
}

int qemu_plugin_install(uint64_t plugin, const void *emulator, int arguments, char **values) {
  const char *path = arguments > 0 ? strchr(values[0], '=') : NULL;
  (void)emulator;
  file = path ? fopen(path + 1, "w") : NULL;
  if (!file) return -1;
  qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
  qemu_plugin_register_vcpu_syscall_cb(plugin, called);
  return 0;
}
