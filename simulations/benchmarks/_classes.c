/* A plugin of QEMU: how often each instruction ran, an address and a number a line, to the file that counts= names. */

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define PLACES (1u << 20) /* halfwords of flash */

struct qemu_plugin_tb;
struct qemu_plugin_insn;

/* What is used of the emulator's interface, whose header Debian does not ship. */
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t at);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t plugin, void (*)(uint64_t plugin, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *instruction, void (*)(unsigned cpu, void *count),
                                            int registers, void *count);
void qemu_plugin_register_atexit_cb(uint64_t plugin, void (*)(uint64_t plugin, void *nothing), void *nothing);

int qemu_plugin_version = VERSION;

static uint64_t counts[PLACES];
static FILE *file;

static void run(unsigned cpu, void *count) {
  (void)cpu;
  ++*(uint64_t *)count;
}

static void translated(uint64_t plugin, struct qemu_plugin_tb *block) {
  (void)plugin;
  for (size_t at = 0; at < qemu_plugin_tb_n_insns(block); ++at) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, at);
    const uint64_t place = qemu_plugin_insn_vaddr(instruction) / 2;
    if (place < PLACES) qemu_plugin_register_vcpu_insn_exec_cb(instruction, run, 0, counts + place);
  }
}

static void ended(uint64_t plugin, void *nothing) {
  (void)plugin, (void)nothing;
  for (unsigned at = 0; at < PLACES; ++at)
    if (counts[at] > 0) fprintf(file, "%x %" PRIu64 "\n", 2 * at, counts[at]);
  fclose(file);
}

int qemu_plugin_install(uint64_t plugin, const void *emulator, int arguments, char **values) {
  const char *path = arguments > 0 ? strchr(values[0], '=') : NULL;
  (void)emulator;
  file = path ? fopen(path + 1, "w") : NULL;
  if (!file) return -1;
  qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
  qemu_plugin_register_atexit_cb(plugin, ended, 0);
  return 0;
}
