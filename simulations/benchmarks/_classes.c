/* A plugin of QEMU: of every instruction an address, how often it ran, and how often another than the one behind it
   came next, a line each, to the file that counts= names. */

#include <stdlib.h>

#include "_plugin.h"

#define PLACES (1u << 20) /* halfwords of flash */

static uint64_t counts[PLACES], jumps[PLACES];

/* Instructions that run one after the other: the places of the first, of the last, and of what lies behind that. */
struct block {
  uint64_t first, last, behind;
};

static const struct block none, *before = &none;

static void entered(unsigned cpu, void *data) {
  const struct block *block = data;
  (void)cpu;
  if (block->first != before->behind) ++jumps[before->last];
  before = block;
}

static void run(unsigned cpu, void *count) {
  (void)cpu;
  ++*(uint64_t *)count;
}

static void translated(uint64_t plugin, struct qemu_plugin_tb *translation) {
  struct block *block = calloc(1, sizeof *block); /* for good, as the translation may be */
  (void)plugin;
  for (size_t at = 0; at < qemu_plugin_tb_n_insns(translation); ++at) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(translation, at);
    const uint64_t place = qemu_plugin_insn_vaddr(instruction) / 2;
    if (place >= PLACES) return;
    if (at == 0) block->first = place;
    block->last = place, block->behind = place + qemu_plugin_insn_size(instruction) / 2;
    qemu_plugin_register_vcpu_insn_exec_cb(instruction, run, 0, counts + place);
  }
  qemu_plugin_register_vcpu_tb_exec_cb(translation, entered, 0, block);
}

static void ended(uint64_t plugin, void *nothing) {
  (void)plugin, (void)nothing;
  for (unsigned at = 0; at < PLACES; ++at)
    if (counts[at] > 0) fprintf(counts_file, "%x %" PRIu64 " %" PRIu64 "\n", 2 * at, counts[at], jumps[at]);
  fclose(counts_file);
}

int qemu_plugin_install(uint64_t plugin, const void *emulator, int arguments, char **values) {
  (void)emulator;
  if (!open_counts(arguments, values)) return -1;
  qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
  qemu_plugin_register_atexit_cb(plugin, ended, 0);
  return 0;
}
