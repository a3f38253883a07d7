"""The only rooms that know Flower: what crosses the link, the phases of the protocol, and the engines that run them."""
