"""Tables of visits, lesions and changes, and what is computed from them."""
