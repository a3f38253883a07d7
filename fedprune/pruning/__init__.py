"""What to prune: masks, scores, allocations, schedules, granularities and the rules made of them; pure, in numpy."""
