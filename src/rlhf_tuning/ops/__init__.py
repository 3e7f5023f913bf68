"""What makes passes over a model fast and lean: attention, products, padding, packing, lanes."""
