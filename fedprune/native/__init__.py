"""Training without torch: a graph becomes a program of few kinds of steps over one arena, which C++ runs."""
