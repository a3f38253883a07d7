/* The machine of machine.h on a computer: files by the C library, and nothing measured. */
#include <stdio.h>

#include "machine.h"

static const char *input_name = "inputs.bin";
static const char *output_name = "outputs.bin";
static FILE *inputs_file, *outputs_file;
static int failed;

static int fail(const char *name, const char *why)
{
    fprintf(stderr, "%s: %s\n", name, why);
    failed = 1;
    return 0;
}

int machine_open(int count, char **words)
{
    if (count == 3) {
        input_name = words[1];
        output_name = words[2];
    }
    inputs_file = fopen(input_name, "rb");
    if (!inputs_file)
        return fail(input_name, "cannot be read; it holds the inputs one after the other, MODEL_INPUT_BYTES each");
    outputs_file = fopen(output_name, "wb");
    return outputs_file ? 1 : fail(output_name, "cannot be written");
}

int machine_read(int8_t *input, size_t bytes)
{
    size_t got = fread(input, 1, bytes, inputs_file);
    if (got != 0 && got != bytes)
        return fail(input_name, "ends within an input; its size must be a multiple of MODEL_INPUT_BYTES (of sounds: FEATURES_INPUT_BYTES)");
    return got == bytes;
}

int machine_write(const int8_t *output, size_t bytes)
{
    return fwrite(output, 1, bytes, outputs_file) == bytes ? 1 : fail(output_name, "cannot be written");
}

const int8_t *machine_measured(const int8_t *(*run)(void))
{
    return run();
}

int machine_report(long inputs, int label)
{
    fclose(inputs_file);
    if (fclose(outputs_file))
        fail(output_name, "cannot be written");
    if (!failed && inputs == 0)
        fail(input_name, "holds no input");
    if (!failed)
        printf("{\"inputs\": %ld, \"last_class\": %d, \"instructions\": null, \"stack_bytes\": null}\n", inputs, label);
    return failed;
}
