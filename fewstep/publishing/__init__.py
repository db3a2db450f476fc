"""What leaves the house: files that other readers load, and the card that goes with them."""
