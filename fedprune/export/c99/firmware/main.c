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
#define WRITE_TOO(place, bytes) && machine_write(place, bytes)

/* The class: the index of the highest score, the first of equals. For that the scores need no scale. */
static int argmax(const int8_t *scores)
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
        const int8_t *scores = machine_measured(model_run);
        /* 3. Use the scores before the next input is written: they lie in the same memory. Where there are several places,
           such as one a token, those of the last place come last. */
        label = argmax(scores + MODEL_OUTPUT_BYTES - MODEL_OUTPUT_CHANNELS);
        if (!(machine_write(scores, MODEL_OUTPUT_BYTES) MODEL_MORE_OUTPUTS(WRITE_TOO)))
            return 1;
        inputs++;
    }
    return machine_report(inputs, label);
}
