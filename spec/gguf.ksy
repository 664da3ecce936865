meta:
  id: gguf
  title: GGUF v3, a container of tensors for ggml
  file-extension: gguf
  endian: le
  bit-endian: le
doc: |
  A second, machine-readable definition of the bytes that spec/container.md, section 3, describes. What it accepts is well-formed, but for one rule that
  Kaitai Struct cannot say: a key must not stand twice (C-010). `tools/check_ksy` compiles it and holds it to the verdict of the grammar on the corpus.
doc-ref: container.md
seq:
  - id: magic
    contents: GGUF
    doc: C-001
  - id: version
    type: u4
    valid:
      any-of: [2, 3]
    doc: C-002, C-003
  - id: n_tensors
    type: u8
    valid:
      expr: n_tensors * 24 <= _io.size - _io.pos
    doc: C-004. A tensor info has at least 24 bytes.
  - id: n_kv
    type: u8
    valid:
      expr: n_kv * 13 <= _io.size - _io.pos
    doc: C-004. A key-value has at least 13 bytes.
  - id: metadata
    type: key_value
    repeat: expr
    repeat-expr: n_kv
  - id: tensors
    type: tensor_info
    repeat: expr
    repeat-expr: n_tensors
types:
  string:
    seq:
      - id: len_text
        type: u8
        valid:
          expr: len_text <= _io.size - _io.pos
      - id: text
        size: len_text
        doc: UTF-8 in keys and names (C-022), any bytes elsewhere.
  key_value:
    seq:
      - id: key
        type: string
      - id: value_type
        type: u4
        enum: value_type
        valid:
          in-enum: true
        doc: C-006
      - id: value
        type:
          switch-on: value_type
          cases:
            value_type::u8: u1
            value_type::i8: s1
            value_type::u16: u2
            value_type::i16: s2
            value_type::u32: u4
            value_type::i32: s4
            value_type::f32: f4
            value_type::boolean: boolean
            value_type::string: string
            value_type::array: array
            value_type::u64: u8
            value_type::i64: s8
            value_type::f64: f8
  boolean:
    seq:
      - id: value
        type: u1
        valid:
          any-of: [0, 1]
        doc: C-008
  array:
    seq:
      - id: element_type
        type: u4
        enum: value_type
        valid:
          any-of:
            - value_type::u8
            - value_type::i8
            - value_type::u16
            - value_type::i16
            - value_type::u32
            - value_type::i32
            - value_type::f32
            - value_type::boolean
            - value_type::string
            - value_type::u64
            - value_type::i64
            - value_type::f64
        doc: C-006; not an array, C-007
      - id: count
        type: u8
        valid:
          expr: count <= _io.size - _io.pos
      - id: elements
        type:
          switch-on: element_type
          cases:
            value_type::u8: u1
            value_type::i8: s1
            value_type::u16: u2
            value_type::i16: s2
            value_type::u32: u4
            value_type::i32: s4
            value_type::f32: f4
            value_type::boolean: boolean
            value_type::string: string
            value_type::u64: u8
            value_type::i64: s8
            value_type::f64: f8
        repeat: expr
        repeat-expr: count
  tensor_info:
    seq:
      - id: name
        type: string
      - id: n_dims
        type: u4
        valid:
          expr: n_dims * 8 <= _io.size - _io.pos
      - id: dims
        type: u8
        repeat: expr
        repeat-expr: n_dims
        doc: Row length first.
      - id: block_format
        type: u4
        doc: ggml's type number (C-016).
      - id: offset
        type: u8
        doc: From the start of the data section, the first multiple of the alignment after this table (C-018).
enums:
  value_type:
    0: u8
    1: i8
    2: u16
    3: i16
    4: u32
    5: i32
    6: f32
    7: boolean
    8: string
    9: array
    10: u64
    11: i64
    12: f64
