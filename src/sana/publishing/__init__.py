"""What is looked into and written before a model goes to the Hub, and its upload."""
