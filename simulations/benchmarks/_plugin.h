/* What is used of QEMU's interface for plugins, whose header Debian does not ship: it is the same in all its versions. */

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t at);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t plugin, void (*)(uint64_t plugin, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*)(unsigned cpu, void *data),
                                          int registers, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *instruction, void (*)(unsigned cpu, void *data),
                                            int registers, void *data);
void qemu_plugin_register_vcpu_syscall_cb(uint64_t plugin,
                                          void (*)(uint64_t plugin, unsigned cpu, int64_t number, uint64_t, uint64_t,
                                                   uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(uint64_t plugin, void (*)(uint64_t plugin, void *nothing), void *nothing);

int qemu_plugin_version = VERSION;

static FILE *counts_file;

/* Opens the file that counts= names, the only argument; returns whether it is open. */
static int open_counts(int arguments, char **values) {
  const char *path = arguments > 0 ? strchr(values[0], '=') : NULL;
  counts_file = path ? fopen(path + 1, "w") : NULL;
  return counts_file != NULL;
}
