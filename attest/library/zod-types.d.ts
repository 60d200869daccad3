// In the package this stands for zod in the declarations: of a schema they need only the type of what it accepts.

interface Schema<T> {
  readonly "~output": T;
}
type Output<S> = S extends Schema<infer T> ? T : never;
type Optional<Shape> = { [K in keyof Shape]: Shape[K] extends z.ZodOptional<unknown> ? K : never }[keyof Shape];
type Flat<T> = { [K in keyof T]: T[K] };

export declare namespace z {
  type ZodType<T = unknown> = Schema<T>;
  type ZodString = Schema<string>;
  type ZodISODate = Schema<string>;
  type ZodISODateTime = Schema<string>;
  type ZodInt = Schema<number>;
  type ZodUInt32 = Schema<number>;
  type ZodNumber = Schema<number>;
  type ZodBigInt = Schema<bigint>;
  type ZodNull = Schema<null>;
  type ZodUnknown = Schema<unknown>;
  type ZodBoolean = Schema<boolean>;
  type ZodLiteral<T> = Schema<T>;
  type ZodTemplateLiteral<T> = Schema<T>;
  type ZodEnum<T> = Schema<T[keyof T]>;
  type ZodArray<S> = Schema<Output<S>[]>;
  type ZodTuple<S extends readonly unknown[], _Rest = null> = Schema<{ -readonly [K in keyof S]: Output<S[K]> }>;
  type ZodRecord<K, V> = Schema<Record<Output<K> & PropertyKey, Output<V>>>;
  type ZodUnion<S extends readonly unknown[]> = Schema<Output<S[number]>>;
  type ZodDiscriminatedUnion<S extends readonly unknown[], _Key = string> = Schema<Output<S[number]>>;
  type ZodNullable<S> = Schema<Output<S> | null>;
  type ZodReadonly<S> = Schema<Readonly<Output<S>>>;
  type ZodDefault<S> = Schema<Output<S>>;
  type ZodTransform<T = unknown, _From = unknown> = Schema<T>;
  type ZodPipe<_From, S> = Schema<Output<S>>;
  interface ZodOptional<S> extends Schema<Output<S> | undefined> {
    readonly "~optional": true;
  }
  type ZodObject<Shape, _Config = unknown> = Schema<
    Flat<
      { [K in Exclude<keyof Shape, Optional<Shape>>]: Output<Shape[K]> } & {
        [K in Optional<Shape>]?: Output<Shape[K]>;
      }
    >
  >;
  interface ZodError {
    readonly issues: readonly unknown[];
  }
  namespace core {
    interface $strict {
      readonly "~strict": true;
    }
  }
  type infer<S> = Output<S>;
  type input<S> = Output<S>;
}
