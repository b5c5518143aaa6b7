// attention_tiles
