"""`alignkit bench`: every installed implementation of the ops, on the user's shapes and device."""
