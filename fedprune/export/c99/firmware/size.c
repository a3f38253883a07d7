/* The smallest program with the model in it, built to be weighed: no files, no printing. */
#include <stdint.h>

#include "model.h"

int main(int count, char **words)
{
    (void)count, (void)words;
    for (;;)
        *model_input() = *model_run();
}
