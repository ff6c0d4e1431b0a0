B
zero_pointJ