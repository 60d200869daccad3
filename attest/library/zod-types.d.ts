// In the package this stands for zod in the declarations: of a schema they need only the type of what it accepts.

interface Schema<T> {
  readonly "~output": T;
}
type Output<S> = S extends Schema<infer T> ? T : never;
type Optional<Shape> = { [K in keyof Shape]: Shape[K] extends ZodOptional<unknown> ? K : never }[keyof Shape];
type Flat<T> = { [K in keyof T]: T[K] };

export type ZodType<T = unknown> = Schema<T>;
export type ZodString = Schema<string>;
export type ZodISODate = Schema<string>;
export type ZodISODateTime = Schema<string>;
export type ZodInt = Schema<number>;
export type ZodUInt32 = Schema<number>;
export type ZodNumber = Schema<number>;
export type ZodBigInt = Schema<bigint>;
export type ZodNull = Schema<null>;
export type ZodUnknown = Schema<unknown>;
export type ZodBoolean = Schema<boolean>;
export type ZodLiteral<T> = Schema<T>;
export type ZodTemplateLiteral<T> = Schema<T>;
export type ZodEnum<T> = Schema<T[keyof T]>;
export type ZodArray<S> = Schema<Output<S>[]>;
export type ZodTuple<S extends readonly unknown[], _Rest = null> = Schema<{ -readonly [K in keyof S]: Output<S[K]> }>;
export type ZodRecord<K, V> = Schema<Record<Output<K> & PropertyKey, Output<V>>>;
export type ZodUnion<S extends readonly unknown[]> = Schema<Output<S[number]>>;
export type ZodDiscriminatedUnion<S extends readonly unknown[], _Key = string> = Schema<Output<S[number]>>;
export type ZodNullable<S> = Schema<Output<S> | null>;
export type ZodReadonly<S> = Schema<Readonly<Output<S>>>;
export type ZodDefault<S> = Schema<Output<S>>;
export type ZodTransform<T = unknown, _From = unknown> = Schema<T>;
export type ZodPipe<_From, S> = Schema<Output<S>>;
export interface ZodOptional<S> extends Schema<Output<S> | undefined> {
  readonly "~optional": true;
}
export type ZodObject<Shape, _Config = unknown> = Schema<
  Flat<
    { [K in Exclude<keyof Shape, Optional<Shape>>]: Output<Shape[K]> } & {
      [K in Optional<Shape>]?: Output<Shape[K]>;
    }
  >
>;
export interface ZodError {
  readonly issues: readonly unknown[];
}
export declare namespace core {
  interface $strict {
    readonly "~strict": true;
  }
}
export type { Output as infer, Output as input };
