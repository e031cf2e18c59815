"""The contest with the champion: its error rate over repeated looks, its power, its verdict."""
