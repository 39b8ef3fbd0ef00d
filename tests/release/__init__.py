"""What a release is made of: its two files, their metadata, and what a user's type checker and shell see of them."""
