"""The places that rows are read from: text files, shards of a folder or pattern, and the hub."""
