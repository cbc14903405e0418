"""Parts of a chain, one file each."""
