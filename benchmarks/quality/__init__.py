"""Quality per bit: methods of compression on real models, each judged by what its model is for."""
