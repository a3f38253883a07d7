/* The smallest program with the model and its features in it, built to be weighed: no files, no printing. */
#include <stdint.h>

#include "features.h"
#include "model.h"

static int16_t samples[FEATURES_SAMPLES];

int main(int count, char **words)
{
    (void)count, (void)words;
    for (;;) {
        model_hear(samples, model_input());
        samples[0] = *model_run();
    }
}
