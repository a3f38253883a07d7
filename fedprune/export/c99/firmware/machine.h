/* What main.c asks of the machine it runs on. host.c answers with the C library, qemu.c on an emulated board. */
#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>
#include <stdint.h>

/* Open the files: the two that the command line names, or else inputs.bin and outputs.bin. False if one cannot be. */
int machine_open(int count, char **words);

/* Read one input from the file; false at its end. */
int machine_read(int8_t *input, size_t bytes);

/* Write one output to the file; false if it cannot be. */
int machine_write(const int8_t *output, size_t bytes);

/* What run() returns, with its instructions counted and the depth of its stack noted, on a machine that can. */
const int8_t *machine_measured(const int8_t *(*run)(void));

/* Close the files and print one line of JSON: how many inputs, the class of the last one, the instructions of one
   inference, the bytes of stack below the caller of model_run; null for what this machine cannot measure. Returns what
   main is to return: 0, or 1 after a failure. */
int machine_report(long inputs, int label);

#endif
