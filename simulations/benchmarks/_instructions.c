/* A plugin of QEMU: how many instructions ran before each call of getpriority, a line each, to the file that counts= names. */

#include "_plugin.h"

#define GETPRIORITY 141 /* on aarch64 */

static uint64_t count;

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
    fprintf(counts_file, "%" PRIu64 "\n", count);
    fflush(counts_file);
  }
}

int qemu_plugin_install(uint64_t plugin, const void *emulator, int arguments, char **values) {
  (void)emulator;
  if (!open_counts(arguments, values)) return -1;
  qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
  qemu_plugin_register_vcpu_syscall_cb(plugin, called);
  return 0;
}
