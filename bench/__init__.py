"""Speed, as ratios to a floor measured in the same run on the same machine.  `python -m bench` prints them."""
