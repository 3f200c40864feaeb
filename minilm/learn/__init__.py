"""The book as exercises, cut from the book itself; and one text traced through its functions."""
