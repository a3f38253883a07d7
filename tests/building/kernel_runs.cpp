// Runs recorded programs over arenas of exactly their size: LIBRARY INSTRUCTIONS THREADS FILE..., to FILE.out each.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

using Layout = long long (*)();
using Run = void (*)(const char*, float*, long long, long long, int, const long long*, long long);

struct Header {
    long long elements, lanes, examples, steps, fields, layout;
};

static int failed(const std::string& why) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 1;
}

int main(int count, char** words) {
    if (count < 5) return failed("LIBRARY INSTRUCTIONS THREADS FILE...");
    void* library = dlopen(words[1], RTLD_NOW);
    if (!library) return failed(dlerror());
    const Layout layout = reinterpret_cast<Layout>(dlsym(library, "fedprune_layout"));
    const Run run = reinterpret_cast<Run>(dlsym(library, "fedprune_run"));
    for (int i = 4; i < count; i++) {
        const std::string name = words[i];
        std::FILE* file = std::fopen(name.c_str(), "rb");
        Header header;
        if (!file || std::fread(&header, sizeof header, 1, file) != 1) return failed(name + " cannot be read");
        if (header.layout != layout()) return failed(name + " has steps of another layout");
        std::vector<long long> steps(std::size_t(header.steps * header.fields));
        float* arena = static_cast<float*>(std::malloc(std::size_t(header.elements) * sizeof(float)));
        if (std::fread(arena, sizeof(float), std::size_t(header.elements), file) != std::size_t(header.elements) ||
            std::fread(steps.data(), sizeof(long long), steps.size(), file) != steps.size())
            return failed(name + " is too short");
        std::fclose(file);
        run(words[2], arena, header.lanes, header.examples, std::atoi(words[3]), steps.data(), header.steps);
        file = std::fopen((name + ".out").c_str(), "wb");
        if (!file) return failed(name + ".out cannot be written");
        std::fwrite(arena, sizeof(float), std::size_t(header.elements), file);
        std::fclose(file);
        std::free(arena);
    }
}
