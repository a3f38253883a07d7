/* The model in a program: hears every sound of a file, on a computer or on an emulated board.
   A program of your own keeps steps 1 to 3, fills `samples` from its microphone, and calls hear() for itself. */
#include <stdint.h>

#include "features.h"
#include "machine.h"
#include "model.h"

static int16_t samples[FEATURES_SAMPLES];

/* From samples to scores. */
static const int8_t *hear(void)
{
    model_hear(samples, model_input());
    return model_run();
}

/* The class: the index of the highest score, the first of equals. For that the scores need no scale. */
static int argmax(const int8_t *scores)
{
    int best = 0;
    for (int i = 1; i < MODEL_OUTPUT_BYTES; i++)
        if (scores[i] > scores[best])
            best = i;
    return best;
}

int main(int count, char **words)
{
    long sounds = 0;
    int label = -1;

    if (!machine_open(count, words))
        return 1;
    /* 1. Record FEATURES_SAMPLES samples of 16 bits, FEATURES_RATE a second. */
    while (machine_read((int8_t *)samples, FEATURES_INPUT_BYTES)) {
        /* 2. Compute their features, and run the model. This is scores = hear(), measured. */
        const int8_t *scores = machine_measured(hear);
        /* 3. Use the scores before the next sound is heard: they lie in the model's memory. */
        label = argmax(scores);
        if (!machine_write(scores, MODEL_OUTPUT_BYTES))
            return 1;
        sounds++;
    }
    return machine_report(sounds, label);
}
