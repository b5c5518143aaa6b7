// pointwise
