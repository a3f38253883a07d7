/* The model in a program: runs it on every input of a file, on a computer or on an emulated board.
   A program of your own keeps steps 1 to 3, fills model_input() from its sensor, and calls model_run() for itself. */
#include <stdint.h>

#include "machine.h"
#include "model.h"

#ifndef MODEL_MORE_INPUTS /* a model of one input and one output */
#define MODEL_MORE_INPUTS(each)
#define MODEL_MORE_OUTPUTS(each)
#endif
#define READ_TOO(place, bytes) && machine_read((int8_t *)(place), bytes)
#define WRITE_TOO(place, bytes) && machine_write((const int8_t *)(place), bytes)

#ifdef MODEL_SCORES_ARE_INT16
typedef int16_t score;
static const int8_t *run(void) { return (const int8_t *)model_run(); }
#else
typedef int8_t score;
#define run model_run
#endif

/* The class: the index of the highest score, the first of equals. For that the scores need no scale. */
static int argmax(const score *scores)
{
    int best = 0;
    for (int i = 1; i < MODEL_OUTPUT_CHANNELS; i++)
        if (scores[i] > scores[best])
            best = i;
    return best;
}

int main(int count, char **words)
{
    long inputs = 0;
    int label = -1;

    if (!machine_open(count, words))
        return 1;
    /* 1. Write an input where the model wants it. Running the model may overwrite it. */
    while (machine_read((int8_t *)model_input(), MODEL_INPUT_BYTES) MODEL_MORE_INPUTS(READ_TOO)) {
        /* 2. Run the model. This is scores = model_run(), measured. */
        const score *scores = (const score *)(const void *)machine_measured(run);
        /* 3. Use the scores before the next input is written: they lie in the same memory. Where there are several places,
           such as one a token, those of the last place come last. */
        label = argmax(scores + MODEL_OUTPUT_BYTES / sizeof *scores - MODEL_OUTPUT_CHANNELS);
        if (!(machine_write((const int8_t *)scores, MODEL_OUTPUT_BYTES) MODEL_MORE_OUTPUTS(WRITE_TOO)))
            return 1;
        inputs++;
    }
    return machine_report(inputs, label);
}
