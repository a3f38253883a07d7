"""Train, prune, go back: weights are rewound to earlier ones."""
