"""A Hugging Face Hub on loopback: uploads, downloads, tags, private repositories; nothing leaves the host."""
