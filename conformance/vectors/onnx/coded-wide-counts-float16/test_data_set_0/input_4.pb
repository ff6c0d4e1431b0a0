B
zero_pointJ